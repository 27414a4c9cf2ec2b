// The HTML of an element, as `scrape` turns it into Markdown: what is read, and nothing that only runs or decorates.
(root, options) => {
  const drop = new Set(['script', 'style', 'noscript', 'template', 'svg', 'canvas', 'iframe', 'object', 'link', 'meta',
    'head', ...options.ignored]);
  if (options.main) for (const tag of ['nav', 'header', 'footer', 'aside']) drop.add(tag);
  const roles = new Set(options.main ? ['navigation', 'banner', 'contentinfo', 'complementary'] : []);
  const hidden = (e) => e.hidden || e.getAttribute('aria-hidden') === 'true' ||
    (e.checkVisibility && !e.checkVisibility({ visibilityProperty: true }) && e.localName !== 'option' &&
      getComputedStyle(e).display !== 'contents');
  let start = root;
  if (options.main && options.whole) {
    const body = document.body || root;
    start = body.querySelector('main, [role=main]') ||
      (body.querySelectorAll('article').length === 1 ? body.querySelector('article') : body);
  } else if (options.whole) {
    start = document.body || root;
  }
  const inert = document.implementation.createHTMLDocument('');
  const known = new Set(('a b blockquote br caption code dd del div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i ' +
    'img kbd li ol p pre q s samp strong sub sup table tbody td tfoot th thead tr ul').split(' '));
  // What Markdown has no word for is a block or a piece of a line, as the page shows it.
  const plain = (e) => (/^(inline|contents|ruby)/.test(getComputedStyle(e).display) ? 'span' : 'div');
  const copy = (e) => {
    const made = inert.createElement(known.has(e.localName) ? e.localName : plain(e));
    if (e.localName === 'a' && e.getAttribute('href')) made.setAttribute('href', e.href);
    if (e.localName === 'img') {
      if (e.currentSrc || e.src) made.setAttribute('src', e.currentSrc || e.src);
      made.setAttribute('alt', e.getAttribute('alt') || '');
    }
    if (e.localName === 'ol' && e.getAttribute('start')) made.setAttribute('start', e.getAttribute('start'));
    for (const key of ['colspan', 'rowspan']) if (e.hasAttribute(key)) made.setAttribute(key, e.getAttribute(key));
    const language = e.localName === 'code' && /language-([\w+-]+)/.exec(e.className);
    if (language) made.setAttribute('class', language[0]);
    for (const child of (e.shadowRoot || e).childNodes) {
      if (child.nodeType === 3) made.append(child.data);
      else if (child.nodeType === 1 && !drop.has(child.localName) && !roles.has(child.getAttribute('role')) &&
        !hidden(child)) made.append(copy(child));
    }
    const given = e.localName === 'slot' && e.assignedNodes ? e.assignedNodes() : [];
    for (const child of given) made.append(child.nodeType === 1 ? copy(child) : child.data || '');
    return made;
  };
  return copy(start).outerHTML;
}
