// What the library looks at in a page, in a world of its own: it changes nothing there, and pages can't see it.
// Ids live as long as their document: elements are the keys of a WeakMap.
(() => {
  if (globalThis.lifecycleOperator) return;
  const ids = new WeakMap();
  const byId = new Map();
  const next = { B: 1, L: 1, I: 1 };
  const ENTER = ' >> internal:control=enter-frame >> ';

  const text = (value, most = 200) => (value || '').replace(/\s+/g, ' ').trim().slice(0, most);

  const visible = (e) => {
    const box = e.getBoundingClientRect();
    if (box.width <= 0 || box.height <= 0) return false;
    return e.checkVisibility ? e.checkVisibility({ visibilityProperty: true, opacityProperty: false }) : true;
  };

  const ROLES = new Set(['button', 'link', 'checkbox', 'radio', 'switch', 'tab', 'menuitem', 'menuitemcheckbox',
    'menuitemradio', 'option', 'combobox', 'listbox', 'textbox', 'searchbox', 'spinbutton', 'slider', 'treeitem']);
  const FIELDS = new Set(['textbox', 'searchbox', 'spinbutton', 'slider', 'combobox', 'listbox', 'checkbox', 'radio',
    'switch', 'file']);

  // The role, and the action that fits it; null for what can't be acted on.
  const kind = (e) => {
    const tag = e.localName;
    const given = (e.getAttribute('role') || '').trim().split(/\s+/)[0];
    if (tag === 'input') {
      const type = e.type;
      if (type === 'hidden') return null;
      if (type === 'checkbox') return [given === 'switch' ? 'switch' : 'checkbox', 'check'];
      if (type === 'radio') return ['radio', 'check'];
      if (type === 'file') return ['file', 'upload_file'];
      if (['button', 'submit', 'reset', 'image'].includes(type)) return ['button', 'click'];
      if (type === 'range') return ['slider', 'fill'];
      if (type === 'number') return ['spinbutton', 'fill'];
      if (type === 'search') return ['searchbox', 'fill'];
      return [given === 'combobox' || e.list ? 'combobox' : 'textbox', 'fill'];
    }
    if (tag === 'select') return [e.multiple || e.size > 1 ? 'listbox' : 'combobox', 'select_dropdown_option'];
    if (tag === 'textarea') return ['textbox', 'fill'];
    if (tag === 'button') return [ROLES.has(given) ? given : 'button', 'click'];
    if (tag === 'a' && e.hasAttribute('href')) return [ROLES.has(given) ? given : 'link', 'click'];
    if (tag === 'summary') return ['button', 'click'];
    if (e.isContentEditable && !(e.parentElement && e.parentElement.isContentEditable)) return ['textbox', 'fill'];
    if (ROLES.has(given)) {
      if (['textbox', 'searchbox', 'spinbutton'].includes(given) && e.isContentEditable) return [given, 'fill'];
      return [given, 'click'];
    }
    if (e.hasAttribute('onclick')) return ['button', 'click'];
    return null;
  };

  const labelled = (e) => {
    const root = e.getRootNode();
    const refs = (e.getAttribute('aria-labelledby') || '').split(/\s+/).filter(Boolean);
    const parts = refs.map((id) => root.getElementById && root.getElementById(id)).filter(Boolean);
    if (parts.length) return text(parts.map((p) => p.textContent).join(' '));
    const label = text(e.getAttribute('aria-label'));
    if (label) return label;
    if (e.labels && e.labels.length) {
      const spoken = text([...e.labels].map((l) => {
        const copy = l.cloneNode(true);
        for (const field of copy.querySelectorAll('input,select,textarea,button')) field.remove();
        return copy.textContent;
      }).join(' '));
      if (spoken) return spoken;
    }
    return '';
  };

  const name = (e) => {
    const found = labelled(e);
    if (found) return found;
    const tag = e.localName;
    if (tag === 'input' && ['submit', 'button', 'reset'].includes(e.type)) {
      return text(e.value) || { submit: 'Submit', reset: 'Reset' }[e.type] || '';
    }
    if (tag === 'input' && e.type === 'image') return text(e.alt) || 'Submit';
    if (!['input', 'select', 'textarea'].includes(tag) && !e.isContentEditable) {
      const inside = text(e.innerText === undefined ? e.textContent : e.innerText);
      if (inside) return inside;
      const image = e.querySelector('img[alt],[aria-label],title');
      if (image) return text(image.getAttribute('alt') || image.getAttribute('aria-label') || image.textContent);
    }
    return text(e.getAttribute('title')) || text(e.getAttribute('placeholder'));
  };

  const within = (root, e) => {
    if (e.id) {
      const byName = `#${CSS.escape(e.id)}`;
      if (root.querySelectorAll(byName).length === 1) return byName;
    }
    const parts = [];
    for (let at = e; at && at.nodeType === 1; at = at.parentElement) {
      if (at !== e && at.id && root.querySelectorAll(`#${CSS.escape(at.id)}`).length === 1) {
        parts.unshift(`#${CSS.escape(at.id)}`);
        break;
      }
      const siblings = at.parentNode ? [...at.parentNode.children].filter((c) => c.localName === at.localName) : [];
      const place = siblings.length > 1 ? `:nth-of-type(${siblings.indexOf(at) + 1})` : '';
      parts.unshift(CSS.escape(at.localName) + place);
    }
    return parts.join(' > ');
  };

  // A selector that names this element and no other as the page stands now.
  const selector = (e) => {
    const root = e.getRootNode();
    const own = `css=${within(root, e)}`;
    if (root instanceof ShadowRoot || (root.host && root.nodeType === 11)) return `${selector(root.host)} >> ${own}`;
    const frame = root.defaultView && root !== document ? root.defaultView.frameElement : null;
    return frame ? selector(frame) + ENTER + own : own;
  };

  const place = (e) => {
    const box = e.getBoundingClientRect();
    let [x, y] = [box.x, box.y];
    for (let view = e.ownerDocument.defaultView; view && view !== window; view = view.parent) {
      const frame = view.frameElement;
      if (!frame) break;
      const around = frame.getBoundingClientRect();
      x += around.x + frame.clientLeft;
      y += around.y + frame.clientTop;
    }
    return [x, y, box.width, box.height].map((n) => Math.round(n * 10) / 10);
  };

  const walk = (root, found) => {
    for (const e of root.querySelectorAll('*')) {
      const what = kind(e);
      if (what && (visible(e) || (what[0] === 'file' && e.isConnected))) found.push([e, what]);
      if (e.shadowRoot) walk(e.shadowRoot, found);
      if (e.localName === 'iframe' || e.localName === 'frame') {
        let inner = null;
        try { inner = e.contentDocument; } catch { inner = null; }
        if (inner && visible(e)) walk(inner, found);
      }
    }
  };

  const idOf = (e, role) => {
    let id = ids.get(e);
    if (!id) {
      const letter = role === 'link' ? 'L' : FIELDS.has(role) ? 'I' : 'B';
      id = letter + next[letter]++;
      ids.set(e, id);
      byId.set(id, new WeakRef(e));
    }
    return id;
  };

  const state = (e, role) => {
    const told = {};
    if (role === 'checkbox' || role === 'radio' || role === 'switch') {
      told.checked = 'checked' in e ? e.checked : e.getAttribute('aria-checked') === 'true';
    } else if (e.localName === 'select') {
      told.options = [...e.options].slice(0, 50).map((o) => text(o.label));
      told.value = e.selectedOptions.length ? text(e.selectedOptions[0].label) : '';
    } else if ('value' in e && ['input', 'textarea'].includes(e.localName) && FIELDS.has(role) && role !== 'file') {
      if (e.type !== 'password') told.value = String(e.value).slice(0, 200);
    }
    told.disabled = e.matches(':disabled') || e.getAttribute('aria-disabled') === 'true';
    return told;
  };

  const FORM = {
    title: ['honorific-prefix'], first_name: ['given-name'], middle_name: ['additional-name'],
    last_name: ['family-name'], full_name: ['name'], email: ['email'], company: ['organization'],
    address1: ['address-line1', 'street-address'], address2: ['address-line2'], address3: ['address-line3'],
    city: ['address-level2'], state: ['address-level1'], postal_code: ['postal-code'],
    country: ['country', 'country-name'], phone: ['tel', 'tel-national'], cc_name: ['cc-name'],
    cc_number: ['cc-number'], cc_exp_month: ['cc-exp-month'], cc_exp_year: ['cc-exp-year'], cc_exp: ['cc-exp'],
    cc_cvv: ['cc-csc'], username: ['username'], current_password: ['current-password'],
    new_password: ['new-password'], totp: ['one-time-code'],
  };
  const WORDS = {
    title: /\b(title|salutation|prefix)\b/, first_name: /\b(first|given) ?name\b|\bfname\b/,
    middle_name: /\bmiddle ?name\b/, last_name: /\b(last|family) ?name\b|\bsurname\b|\blname\b/,
    full_name: /\bfull ?name\b|\byour name\b|^name\b/, email: /\be ?mail\b/, company: /\bcompany|organi[sz]ation\b/,
    address1: /\baddress ?(line)? ?1\b|\bstreet\b|^address\b/, address2: /\baddress ?(line)? ?2\b|\bapartment|suite\b/,
    address3: /\baddress ?(line)? ?3\b/, city: /\bcity|town\b/, state: /\bstate|province|region\b/,
    postal_code: /\b(post(al)?|zip) ?(code)?\b/, country: /\bcountry\b/, phone: /\bphone|telephone|mobile|tel\b/,
    cc_name: /\b(name on card|card ?holder|cc ?name)\b/, cc_number: /\b(card|cc) ?(number|no)\b/,
    cc_exp_month: /\bexp\w* ?month\b/, cc_exp_year: /\bexp\w* ?year\b/, cc_exp: /\bexp(iry|iration)?( date)?\b/,
    cc_cvv: /\b(cvv|cvc|csc|security code)\b/, username: /\b(user ?name|login|user)\b/,
    current_password: /\bpassword\b/, new_password: /\b(new|confirm) ?password\b/,
    totp: /\b(otp|totp|one ?time|verification) ?(code)?\b/,
  };

  const formField = (wanted) => {
    const found = [];
    walk(document, found);
    const fields = found.filter(([e, [, act]]) => ['fill', 'check', 'select_dropdown_option'].includes(act) &&
      !e.matches(':disabled') && !e.readOnly).map(([e]) => e);
    const token = (e) => (e.getAttribute('autocomplete') || '').toLowerCase().split(/\s+/).pop();
    const words = (s) => (s || '').replace(/([a-z])([A-Z0-9])/g, '$1 $2').replace(/[_\-.[\]]+/g, ' ').toLowerCase();
    const tests = [
      (e) => FORM[wanted].includes(token(e)),
      (e) => (wanted === 'email' && e.type === 'email') || (wanted === 'phone' && e.type === 'tel') ||
        (wanted === 'current_password' && e.type === 'password'),
      (e) => [words(e.name), words(e.id), words(name(e)), words(e.placeholder)].some((s) => WORDS[wanted].test(s)),
    ];
    for (const test of tests) {
      const hit = fields.find(test);
      if (hit) return { selector: selector(hit), tag: hit.localName };
    }
    return null;
  };

  globalThis.lifecycleOperator = {
    observe(most) {
      const found = [];
      walk(document, found);
      const page = document.scrollingElement || document.documentElement;
      return {
        url: location.href,
        title: document.title,
        elements: found.slice(0, most).map(([e, [role, action]]) => ({
          id: idOf(e, role), role: role === 'file' ? 'button' : role, action, name: name(e), selector: selector(e),
          box: place(e), ...state(e, role),
        })),
        more: Math.max(found.length - most, 0),
        viewport: {
          scroll_x: Math.round(scrollX), scroll_y: Math.round(scrollY), viewport_width: innerWidth,
          viewport_height: innerHeight, total_width: page ? page.scrollWidth : 0,
          total_height: page ? page.scrollHeight : 0,
        },
      };
    },
    find(id) {
      const held = byId.get(id);
      const e = held && held.deref();
      return e && e.isConnected ? selector(e) : null;
    },
    formField,
    scroll(amount, up) {
      let target = document.scrollingElement || document.documentElement;
      if (target.scrollHeight <= target.clientHeight) {
        const inner = [...document.querySelectorAll('*')].filter((e) => e.scrollHeight > e.clientHeight + 1 &&
          /(auto|scroll)/.test(getComputedStyle(e).overflowY));
        inner.sort((a, b) => b.clientHeight * b.clientWidth - a.clientHeight * a.clientWidth);
        target = inner[0] || target;
      }
      const by = amount === null ? target.clientHeight || innerHeight : amount;
      target.scrollBy({ top: up ? -by : by, behavior: 'instant' });
    },
  };
})();
