import { defineConfig } from "orval";

export default defineConfig({
  tasks: {
    input: process.env["CONTRACT"] ?? "../../../openapi.yaml",
    output: {
      client: "fetch",
      mode: "split",
      target: "generated/tasks.ts",
      headers: true, // If-Match and If-None-Match become typed arguments
      urlEncodeParameters: true, // a user's id may hold characters that mean something in a path
      baseUrl: { runtime: 'process.env["TASKS_URL"] ?? ""' },
    },
  },
});
