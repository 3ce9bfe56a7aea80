"""The generators: how each is run, how its client is compiled, and what may be heard of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Command = tuple[str, ...]

# Lines that every run prints and that warn of nothing.
DONATE = r"#[# ].*|#+"
CHECKED = r"Success: no issues found in \d+ source files?"


@dataclass(frozen=True)
class Target:
    """A generator; its folder has its configuration, its scenario and, generated, its client.

    `{contract}` in a command is the file to generate from. Commands run in the target's folder.
    """

    name: str
    packages: tuple[str, ...]  # their versions are told
    generate: Command
    compile: tuple[Command, ...]
    scenario: Command
    needs: tuple[str, ...] = ("node",)  # programs; without them there is no toolchain
    ordinary: tuple[str, ...] = ()
    explained: Mapping[str, str] = field(default_factory=dict)


def typescript(
    name: str, packages: tuple[str, ...], generate: Command, ordinary: tuple[str, ...] = ()
) -> Target:
    """A target whose client is checked by tsc, bundled as a page's would be, and run by Node."""
    bundle = ("esbuild", "scenario.ts", "--bundle", "--platform=node", "--format=esm")
    return Target(
        name,
        packages,
        generate,
        (("tsc", "-p", "."), (*bundle, "--log-level=warning", "--outfile=generated/scenario.mjs")),
        ("node", "generated/scenario.mjs"),
        ordinary=ordinary,
    )


OPENAPI_GENERATOR: Mapping[str, str] = {
    r"OpenAPI 3\.1 support is still in beta": (
        "said of every 3.1 document; the client is compiled and run here to know"
    ),
    r"Failed to get the schema name: null": (
        "it asks each named example for a `$ref` before it reads it; the examples are inline, and "
        "nothing that is generated comes from them"
    ),
}


def openapi_generator(
    name: str, generator: str, *options: str
) -> tuple[str, tuple[str, ...], Command]:
    """The name, packages and command of a target of openapi-generator."""
    run = ("openapi-generator-cli", "generate", "-g", generator, "-i", "{contract}")
    return name, ("openapi-generator-cli",), (*run, "-o", "generated", *options)


ORVAL = (r"🍻 orval v\S+ - A swagger client generator for typescript", r"tasks - 🎉 .* ready to .*")

TARGETS = (
    typescript(
        "openapi-typescript",
        ("openapi-typescript", "openapi-fetch"),
        ("openapi-typescript", "{contract}", "-o", "generated/tasks.ts"),
        (r"✨ openapi-typescript \S+", r"🚀 .* → generated/tasks\.ts \[\S+\]"),
    ),
    typescript(
        "hey-api",
        ("@hey-api/openapi-ts", "zod"),
        ("openapi-ts",),
        (
            r"@hey-api/openapi-ts v\S+",
            r"\[Job 1\] ~ Generating\.\.\.",
            r"\[Job 1\]   \[1\] .*\.yaml",
            r"\[Job 1\] ✓ .* · \d+ files · \S+",
        ),
    ),
    typescript("orval-fetch", ("orval",), ("orval",), ORVAL),
    typescript("orval-react-query", ("orval", "@tanstack/react-query"), ("orval",), ORVAL),
    Target(
        "openapi-python-client",
        ("openapi-python-client", "httpx", "attrs"),
        (
            *("openapi-python-client", "generate", "--path", "{contract}"),
            *("--output-path", "generated", "--overwrite", "--config", "config.yaml"),
            "--fail-on-warning",
        ),
        (
            ("mypy", "--config-file=", "--strict", "generated/tasks_api_client"),
            ("mypy", "--config-file=", "--strict", "scenario.py"),
        ),
        ("python", "scenario.py"),
        needs=("python",),
        ordinary=("Generating generated", CHECKED),
    ),
    replace(
        typescript(
            *openapi_generator("openapi-generator-typescript-fetch", "typescript-fetch"), (DONATE,)
        ),
        needs=("java", "node"),
        explained=OPENAPI_GENERATOR,
    ),
    Target(
        *openapi_generator("openapi-generator-python", "python", "-c", "config.yaml"),
        (
            # As strict as the generator's own configuration; its code does not bear more.
            ("mypy", "--config-file=generated/pyproject.toml", "generated/tasks_api"),
            ("mypy", "--config-file=", "--strict", "--follow-imports=silent", "scenario.py"),
        ),
        ("python", "scenario.py"),
        needs=("java", "python"),
        ordinary=(DONATE, CHECKED),
        explained=OPENAPI_GENERATOR,
    ),
    Target(
        *openapi_generator("openapi-generator-go", "go", "-c", "config.yaml"),
        (("go", "vet", "./..."), ("go", "build", "-o", "generated/scenario", ".")),
        ("generated/scenario",),
        needs=("java", "go"),
        ordinary=(DONATE,),
        explained=OPENAPI_GENERATOR,
    ),
)
