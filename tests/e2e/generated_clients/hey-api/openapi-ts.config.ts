import { defineConfig } from "@hey-api/openapi-ts";

export default defineConfig({
  input: process.env["CONTRACT"] ?? "../../../openapi.yaml",
  output: "generated",
  plugins: [
    "@hey-api/client-fetch",
    "zod",
    { name: "@hey-api/sdk", validator: { response: "zod" } },
  ],
});
