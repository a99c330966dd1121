// Building elements. Text only ever becomes text: nothing on this page is parsed as HTML.

export const byId = (id) => document.getElementById(id);

// make("a", {href: "/"}, "Home"): attributes by name; `onclick` and the like are listeners;
// null and false leave an attribute out; children are elements or texts.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(share > 0 && share < 0.095 ? 1 : 0)} %`;
}
