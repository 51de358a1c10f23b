// Keys: through the list, between alerts, and to say what an alert was. Everything works without.
"use strict";

const typing = (target) => target.matches("input, select, textarea");

for (const input of document.querySelectorAll("[data-keep]")) {
  const name = `saeguard.${input.name}`;
  input.value ||= localStorage.getItem(name) ?? "";
  input.addEventListener("change", () => localStorage.setItem(name, input.value));
}

function step(by) {
  const links = [...document.querySelectorAll(".alerts a")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at < 0 ? 0 : at + by))].focus();
}

const follow = (rel) => document.querySelector(`a[rel="${rel}"]`)?.click();

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const isList = document.querySelector(".alerts") !== null;
  const keys = {
    j: () => (isList ? step(1) : follow("next")),
    k: () => (isList ? step(-1) : follow("prev")),
    "/": () => document.querySelector("[type=search]")?.focus(),
  };
  const button = document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`);
  const act = button ? () => button.click() : keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
