(() => {
  "use strict";
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const keep = (key, value) => { try { localStorage.setItem("whence-" + key, value); } catch { /* private window */ } };
  const kept = (key) => { try { return localStorage.getItem("whence-" + key); } catch { return null; } };

  root.classList.add("scripted");

  /* Light and dark. */
  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : wantsDark.matches);
  const asked = kept("theme");
  if (asked === "dark" || asked === "light") root.dataset.theme = asked;
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    keep("theme", root.dataset.theme);
  });

  /* A page without maps has nothing else to steer. */
  const tools = document.querySelector(".tools");
  if (!tools) return;

  tools.hidden = false;

  /* Maps: how dense they are, whether the pictures below are grey, and the scales. */
  const opacity = byId("opacity");
  const showOpacity = () => {
    root.style.setProperty("--heat", opacity.value / 100);
    opacity.nextElementSibling.textContent = opacity.value + "\u202f%";
  };
  opacity.addEventListener("input", showOpacity);
  const grey = byId("grey");
  const showGrey = () => root.classList.toggle("grey", grey.checked);
  grey.addEventListener("change", showGrey);
  const oneScale = byId("one-scale");
  const showScale = () => root.classList.toggle("one-scale", oneScale.checked);
  if (oneScale) {
    oneScale.addEventListener("change", showScale);
    showScale();
  }
  showOpacity();
  showGrey();

  /* Stepping through the images, all or the wrong ones. */
  const all = [...document.querySelectorAll("article.query")];
  document.querySelector(".steps").hidden = all.length < 2;
  const wrong = byId("wrong");
  const position = byId("position");
  const shown = () => all.filter((one) => !one.hidden);
  const line = () => document.querySelector(".bar").offsetHeight + 24;
  const current = () => {
    const list = shown();
    let at = -1;
    list.forEach((one, index) => { if (one.getBoundingClientRect().top <= line()) at = index; });
    return at;
  };
  const showPosition = () => {
    const count = shown().length;
    const at = current();
    const text = (at < 0 ? "\u2013" : at + 1) + "\u202f/\u202f" + count;
    if (position.textContent !== text) position.textContent = text;
  };
  const step = (by) => {
    const list = shown();
    if (!list.length) return;
    const target = list[Math.min(Math.max(current() + by, 0), list.length - 1)];
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "start", behavior: "instant" });
    showPosition();
  };
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  addEventListener("scroll", () => requestAnimationFrame(showPosition), { passive: true });
  const filter = () => {
    for (const one of all) one.hidden = wrong.checked && one.dataset.verdict !== "wrong";
    for (const link of document.querySelectorAll(".strip a")) {
      link.hidden = wrong.checked && !link.classList.contains("wrong");
    }
    byId("nothing-wrong").hidden = !wrong.checked || shown().length > 0;
    showPosition();
  };
  if (wrong) {
    wrong.addEventListener("change", filter);
    filter();
  }
  showPosition();

  /* A picture, enlarged. */
  const lens = byId("lens");
  for (const frame of document.querySelectorAll("button.frame")) {
    frame.addEventListener("click", () => {
      byId("lens-title").textContent = frame.dataset.title;
      byId("lens-note").textContent = frame.dataset.note;
      const copy = document.createElement("div");
      copy.className = frame.className;
      copy.append(...[...frame.children].map((child) => child.cloneNode(true)));
      byId("lens-shot").replaceChildren(copy);
      lens.showModal();
    });
  }
  lens.addEventListener("click", (event) => { if (event.target === lens) lens.close(); });

  /* Keys. */
  const press = (box) => { if (box) { box.checked = !box.checked; box.dispatchEvent(new Event("change")); } };
  const slide = (by) => { opacity.value = Number(opacity.value) + by; showOpacity(); };
  const keys = {
    j: () => step(1), k: () => step(-1), w: () => press(wrong), g: () => press(grey), s: () => press(oneScale),
    "[": () => slide(-10), "]": () => slide(10),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!Object.hasOwn(keys, event.key) || (lens.open && "jk".includes(event.key))) return;
    event.preventDefault();
    keys[event.key]();
  });
})();
