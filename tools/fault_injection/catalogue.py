"""The list of faults: their setup, their function and the failures they allow."""

from __future__ import annotations

from dataclasses import dataclass, field

from tools.fault_injection import injections
from tools.fault_injection.environment import Setup
from tools.fault_injection.load import Allowed


@dataclass(frozen=True)
class Fault:
    name: str
    inject: injections.Inject
    # Expected readiness during the fault; None if only some requests succeed.
    ready: bool | None = None
    setup: Setup = field(default_factory=Setup)
    allowed: Allowed = field(default_factory=Allowed)
    ends_process: bool = False


POOLED = Setup(pooler=True)
CONNECTION_REFUSED = Allowed(connection_refused=True)

FAULTS = (
    Fault("postgres-killed", injections.kill_postgres, ready=False),
    Fault("postgres-restarted", injections.restart_postgres, ready=False),
    Fault("backend-terminated-before-statement", injections.terminate_before),
    Fault("backend-terminated-during-statement", injections.terminate_during),
    Fault("backend-terminated-after-statement", injections.terminate_after),
    Fault("acknowledgement-lost", injections.drop_acknowledgement),
    # The database accepts connections, and reads succeed.
    Fault("disk-full", injections.fill_disk, ready=True, setup=Setup(megabytes=12)),
    Fault(
        "log-disk-full",
        injections.fill_log_disk,
        ready=False,
        setup=Setup(megabytes=200, is_log_disk=True),
    ),
    Fault("connections-exhausted", injections.exhaust_connections, ready=False),
    Fault("table-locked", injections.lock_table),
    Fault("rows-locked", injections.lock_rows),
    Fault("suspended-1s", injections.suspend(1), ready=False),
    Fault("suspended-5s", injections.suspend(5), ready=False),
    Fault("suspended-30s", injections.suspend(30), ready=False),
    Fault("connections-reset", injections.reset_connections),
    Fault("black-hole", injections.black_hole, ready=False),
    Fault("latency-200ms", injections.delay, ready=True),
    Fault("bandwidth-4kB/s", injections.squeeze),
    Fault("half-open", injections.half_open),
    Fault("pooler-restarted", injections.restart_pooler, ready=False, setup=POOLED),
    Fault("pooler-paused", injections.pause_pooler, ready=False, setup=POOLED),
    Fault(
        "service-killed",
        injections.kill_service,
        allowed=Allowed(connection_lost=True, connection_refused=True),
        ends_process=True,
    ),
    Fault(
        "service-stopped",
        injections.terminate_service,
        allowed=CONNECTION_REFUSED,
        ends_process=True,
    ),
    Fault(
        "rolling-restart",
        injections.rolling_restart,
        ready=True,
        setup=Setup(replicas=2),
        ends_process=True,
    ),
    Fault("memory-limited", injections.limit_memory, allowed=Allowed(internal_errors=True)),
    Fault("clock-of-service-back", injections.set_clock_back, setup=Setup(service_clock=True)),
    Fault("clock-of-database-back", injections.set_clock_back, setup=Setup(database_clock=True)),
)
