import { defineConfig } from "orval";

export default defineConfig({
  tasks: {
    input: {
      target: process.env["CONTRACT"] ?? "../../../openapi.yaml",
      // The generated code would treat the YAML document as a string.
      filters: { mode: "exclude", tags: ["contract"] },
    },
    output: {
      client: "react-query",
      httpClient: "fetch",
      mode: "split",
      target: "generated/tasks.ts",
      headers: true, // If-Match and If-None-Match become typed arguments
      urlEncodeParameters: true, // a user's id may hold characters that mean something in a path
      baseUrl: { runtime: 'process.env["TASKS_URL"] ?? ""' },
      override: {
        fetch: { forceSuccessResponse: true }, // a problem is thrown, as queries expect of errors
        query: { useInfinite: true, useInfiniteQueryParam: "cursor" },
      },
    },
  },
});
