// Swagger UI shows the document's whole description above the operations, and leaves out tags without operations.
// Here the operations come first, and then the description and the description of each such tag.
const operationsFirst = ({ React: { createElement: h }, getComponent, specSelectors }) => {
  const Head = () =>
    h('div', { className: 'info' },
      h('h1', { className: 'title' }, `${specSelectors.info().get('title')} ${specSelectors.info().get('version')}`),
      h('p', null, specSelectors.info().get('summary'), ' ', h('a', { href: '/openapi.yaml' }, '/openapi.yaml')));

  const Text = ({ source }) => h(getComponent('Markdown', true), { source });

  const Guide = () => {
    const shown = specSelectors.taggedOperations();
    const others = specSelectors.tags().filterNot((tag) => shown.has(tag.get('name')));
    return h('div', { className: 'info', id: 'guide' },
      h(Text, { source: specSelectors.info().get('description') }),
      others.map((tag) => h('section', { key: tag.get('name'), id: tag.get('name') },
        h('h2', null, tag.get('name')),
        h(Text, { source: tag.get('description') }))));
  };

  return {
    wrapComponents: {
      InfoContainer: () => Head,
      operations: (Operations) => (props) => h('div', null, h(Operations, props), h(Guide)),
    },
  };
};

SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#page',
  deepLinking: true,
  validatorUrl: null, // the badge of the online validator would call another host
  plugins: [operationsFirst],
});
