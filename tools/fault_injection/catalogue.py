"""The faults by name: how each is injected, into what, and what it excuses."""

from __future__ import annotations

from dataclasses import dataclass, field

from tools.fault_injection import injections as the
from tools.fault_injection.environment import Scene
from tools.fault_injection.load import Allowed


@dataclass(frozen=True)
class Fault:
    """One fault."""

    name: str
    inject: the.Inject
    # What /readyz has to say while it lasts; None where requests are served in part or in turns.
    ready: bool | None = None
    scene: Scene = field(default_factory=Scene)
    allowed: Allowed = field(default_factory=Allowed)
    ends_process: bool = False


POOLED = Scene(pooler=True)
NOBODY_LISTENS = Allowed(refusals=True)

FAULTS = (
    Fault("postgres-killed", the.kill_postgres, ready=False),
    Fault("postgres-restarted", the.restart_postgres, ready=False),
    Fault("backend-ended-before-statement", the.terminate_before),
    Fault("backend-ended-during-statement", the.terminate_during),
    Fault("backend-ended-after-statement", the.terminate_after),
    Fault("acknowledgement-cut", the.cut_before_acknowledgement),
    # The database answers, and reads are served.
    Fault("disk-full", the.fill_disk, ready=True, scene=Scene(megabytes=12)),
    Fault(
        "log-disk-full",
        the.fill_log_disk,
        ready=False,
        scene=Scene(megabytes=200, is_of_log=True),
    ),
    Fault("connections-used-up", the.use_up_connections, ready=False),
    Fault("table-locked", the.lock_table),
    Fault("rows-locked", the.lock_rows),
    Fault("suspended-1s", the.suspend(1), ready=False),
    Fault("suspended-5s", the.suspend(5), ready=False),
    Fault("suspended-30s", the.suspend(30), ready=False),
    Fault("connections-reset", the.reset_connections),
    Fault("black-hole", the.black_hole, ready=False),
    Fault("latency-200ms", the.delay, ready=True),
    Fault("bandwidth-4kB/s", the.squeeze),
    Fault("half-open", the.half_open),
    Fault("pooler-restarted", the.restart_pooler, ready=False, scene=POOLED),
    Fault("pooler-paused", the.pause_pooler, ready=False, scene=POOLED),
    Fault(
        "service-killed",
        the.kill_service,
        allowed=Allowed(cuts=True, refusals=True),
        ends_process=True,
    ),
    Fault("service-stopped", the.terminate_service, allowed=NOBODY_LISTENS, ends_process=True),
    Fault("rolling-restart", the.roll, ready=True, scene=Scene(replicas=2), ends_process=True),
    Fault("memory-short", the.take_memory, allowed=Allowed(internal_errors=True)),
    Fault("clock-of-service-back", the.set_clock_back, scene=Scene(service_clock=True)),
    Fault("clock-of-database-back", the.set_clock_back, scene=Scene(database_clock=True)),
)
