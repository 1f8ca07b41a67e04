// The page is changed by nodes and texts only, never by markup, so that the key of a client is always shown as text.

export const byId = (id) => document.getElementById(id);

// element makes <tag class="name">children</tag>; children are nodes or texts.
export function element(tag, name, ...children) {
  const e = document.createElement(tag);
  if (name) e.className = name;
  e.append(...children);
  return e;
}

// setText leaves the node alone if nothing changes, so that a selection in it survives.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// rows keeps one child of parent per item, found by its key, in the items' order: focus and selection survive.
export function rows(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    let row = old.get(key);
    old.delete(key);
    if (!row) {
      row = make(item);
      row.dataset.key = key;
    }
    update(row, item);
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== row) parent.insertBefore(row, place);
    before = row;
  }
  for (const row of old.values()) row.remove();
}

// options makes a <select> offer these values, and keeps what is chosen.
export function options(select, values, label = (v) => v) {
  const chosen = select.value;
  rows(select, values, (v) => v, (v) => {
    const o = element("option", "");
    o.value = v;
    return o;
  }, (o, v) => setText(o, label(v)));
  if (values.includes(chosen)) select.value = chosen;
}
