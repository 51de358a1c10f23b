// Keys: through the list, between alerts, along the tokens, and to say what an alert was. Everything
// works without.
"use strict";

const typing = (target) => target.matches("input:not([type=checkbox]), select, textarea");
const follow = (rel) => document.querySelector(`a[rel="${rel}"]`)?.click();

function step(by) {
  const links = [...document.querySelectorAll(".alerts a")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at < 0 ? 0 : at + by))].focus();
}

// The token that is pointed at tells its score below the drawing, to eyes, to screen readers, and
// on screens that know no hovering.
const tokens = [...document.querySelectorAll(".strip .t")];

function point(token) {
  if (!token) return;
  document.querySelector(".strip .pointed")?.classList.remove("pointed");
  token.classList.add("pointed");
  const phase = token.closest(".band").querySelector("h3").firstChild.textContent.trim();
  const marks = ["over", "firing", "unseen"].filter((name) => token.classList.contains(name));
  const words = { over: "reaches the threshold", firing: "here the rule fired", unseen: "not observed" };
  const told = [`${phase} ${token.title}`, token.textContent, ...marks.map((name) => words[name])];
  document.getElementById("token").textContent = told.join(" — ");
}

function walk(by) {
  const at = tokens.findIndex((token) => token.classList.contains("pointed"));
  const firing = tokens.findIndex((token) => token.classList.contains("firing"));
  const next = tokens[at < 0 ? Math.max(0, firing) : Math.min(tokens.length - 1, Math.max(0, at + by))];
  point(next);
  next?.scrollIntoView({ block: "nearest" });
}

document.querySelector(".strip")?.addEventListener("click", (event) => point(event.target.closest(".t")));

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
    "?": () => document.getElementById("keys").togglePopover(),
  };
  if (tokens.length) {
    keys.ArrowLeft = () => walk(-1);
    keys.ArrowRight = () => walk(1);
  }
  const key = CSS.escape(event.key);
  const button = document.querySelector(`[data-key="${key}"]`);
  const field = document.querySelector(`[data-focus="${key}"]`);
  const act = button ? () => button.click() : field ? () => field.focus() : keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
