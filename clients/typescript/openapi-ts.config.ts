import { defineConfig } from '@hey-api/openapi-ts';

export default defineConfig({
  input: '../../openapi.yaml',
  // The contract describes what a YAML parser reads. This package has none, and returns the text.
  parser: {
    patch: {
      operations: {
        'GET /openapi.yaml': (operation) => {
          const yaml = { schema: { type: 'string' } } as const;
          operation.responses = {
            ...operation.responses,
            200: { description: 'The text of the contract.', content: { 'application/yaml': yaml } },
          };
        },
      },
    },
  },
  output: { path: 'src/generated', module: { extension: '.js' } },
  plugins: [
    { name: '@hey-api/client-fetch', throwOnError: true },
    { name: '@hey-api/sdk', operations: { strategy: 'single', containerName: 'Operations' } },
    '@hey-api/typescript',
  ],
});
