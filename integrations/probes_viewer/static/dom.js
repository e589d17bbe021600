// Elements of the page and its colours.

/** An element with attributes, or of a class, and what is in it. */
export const create = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(typeof attributes === "string" ? { className: attributes } : attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else if ((value ?? null) !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => (child ?? false) !== false));
  return element;
};

export const withKey = ({ ctrlKey, metaKey, altKey }) => ctrlKey || metaKey || altKey;

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
