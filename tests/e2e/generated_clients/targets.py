"""The generators, with their commands and their expected output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Command = tuple[str, ...]

# Ordinary output, which is no warning.
DONATE = r"#[# ].*|#+"
CHECKED = r"Success: no issues found in \d+ source files?"


@dataclass(frozen=True)
class Target:
    """A generator. Its folder has its configuration, its scenarios and its generated client.

    Commands run in the target's folder. `{contract}` is the file to generate from, and `{scenario}`
    is the name of a scenario.
    """

    name: str
    packages: tuple[str, ...]  # whose versions are reported
    generate: Command
    compile: tuple[Command, ...]
    compile_scenario: Command
    run_scenario: Command
    needs: tuple[str, ...] = ("node",)  # programs of the toolchain
    ordinary: tuple[str, ...] = ()
    explained: Mapping[str, str] = field(default_factory=dict)


def typescript(
    name: str, packages: tuple[str, ...], generate: Command, ordinary: tuple[str, ...] = ()
) -> Target:
    """Return a target whose client is checked by tsc, bundled by esbuild, and run by Node."""
    bundle = ("esbuild", "{scenario}.ts", "--bundle", "--platform=node", "--format=esm")
    return Target(
        name,
        packages,
        generate,
        (("tsc", "-p", "."),),
        (*bundle, "--log-level=warning", "--outfile=generated/{scenario}.mjs"),
        ("node", "generated/{scenario}.mjs"),
        ordinary=ordinary,
    )


OPENAPI_GENERATOR: Mapping[str, str] = {
    r"OpenAPI 3\.1 support is still in beta": (
        "printed for every 3.1 document; this check compiles and runs the client"
    ),
    r"Failed to get the schema name: null": (
        "printed for each inline example, as it has no `$ref`; the generated code does not use "
        "the examples"
    ),
}


def openapi_generator(
    name: str, generator: str, *options: str
) -> tuple[str, tuple[str, ...], Command]:
    """Return the name, packages and command of a target of openapi-generator."""
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
        (("mypy", "--config-file=", "--strict", "generated/tasks_api_client"),),
        ("mypy", "--config-file=", "--strict", "{scenario}.py"),
        ("python", "{scenario}.py"),
        needs=("python",),
        ordinary=("Generating generated", CHECKED),
    ),
    replace(
        typescript(
            *openapi_generator(
                "openapi-generator-typescript-fetch", "typescript-fetch", "-c", "config.yaml"
            ),
            (DONATE,),
        ),
        needs=("java", "node"),
        explained=OPENAPI_GENERATOR,
    ),
    Target(
        *openapi_generator("openapi-generator-python", "python", "-c", "config.yaml"),
        # The generator's configuration: its code does not pass strict mode.
        (("mypy", "--config-file=generated/pyproject.toml", "generated/tasks_api"),),
        ("mypy", "--config-file=", "--strict", "--follow-imports=silent", "{scenario}.py"),
        ("python", "{scenario}.py"),
        needs=("java", "python"),
        ordinary=(DONATE, CHECKED),
        explained=OPENAPI_GENERATOR,
    ),
    Target(
        *openapi_generator("openapi-generator-go", "go", "-c", "config.yaml"),
        (("go", "vet", "./generated"),),
        ("go", "build", "-o", "generated/{scenario}", "common.go", "{scenario}.go"),
        ("generated/{scenario}",),
        needs=("java", "go"),
        ordinary=(DONATE,),
        explained=OPENAPI_GENERATOR,
    ),
)
