"use strict";
// Elements made from text alone: nothing of data or models is ever parsed as HTML.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\u{e0000}-\u{e007f}]/gu;
const visible = (text) => String(text).replace(HIDDEN, (found) => "⟨U+" + found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");
const byId = (id) => document.getElementById(id);
const jsonOf = (id) => (byId(id) ? JSON.parse(byId(id).textContent) : null);
function add(parent, name, text = "", className = "") {
  const made = parent.appendChild(document.createElement(name));
  made.textContent = visible(text);
  if (className) made.className = className;
  return made;
}
function addSvg(parent, name, attributes = {}) {
  const made = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
function addOption(select, value, text) {
  add(select, "option", text).value = value;
}
