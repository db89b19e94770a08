(() => {
  "use strict";
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const keep = (key, value) => { try { localStorage.setItem("whence-" + key, value); } catch { /* private window */ } };
  const kept = (key) => { try { return localStorage.getItem("whence-" + key); } catch { return null; } };

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
  root.classList.add("scripted");

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
  /* The enlarged picture as a file: as large as it is shown, with the map as dense as it is. */
  const save = byId("lens-save");
  const paint = (frame) => {
    const layers = [...frame.querySelectorAll("img")].filter((one) => getComputedStyle(one).display !== "none");
    const first = layers[0];
    const times = Math.max(1, Math.round(640 / Math.max(first.naturalWidth, first.naturalHeight)));
    const canvas = document.createElement("canvas");
    canvas.width = first.naturalWidth * times;
    canvas.height = first.naturalHeight * times;
    const pen = canvas.getContext("2d");
    for (const one of layers) {
      const style = getComputedStyle(one);
      pen.imageSmoothingEnabled = style.imageRendering !== "pixelated";
      pen.globalAlpha = Number(style.opacity);
      pen.filter = style.filter;
      pen.drawImage(one, 0, 0, canvas.width, canvas.height);
    }
    return canvas;
  };
  save.addEventListener("click", () => {
    save.href = paint(byId("lens-shot")).toDataURL("image/png");
    save.download = byId("lens-title").textContent.replace(/[^\w.-]+/g, "-") + ".png";
  });

  /* The value under the pointer, read back from the map's colours: opacity is size, hue is sign. */
  const probe = byId("probe");
  const pens = new WeakMap();
  const penOf = (image) => {
    if (!pens.has(image)) {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.drawImage(image, 0, 0);
      pens.set(image, pen);
    }
    return pens.get(image);
  };
  const valueAt = (image, x, y) => {
    const box = image.getBoundingClientRect();
    const across = Math.min(Math.max(Math.floor((x - box.left) / box.width * image.naturalWidth), 0), image.naturalWidth - 1);
    const down = Math.min(Math.max(Math.floor((y - box.top) / box.height * image.naturalHeight), 0), image.naturalHeight - 1);
    const [red, , blue, alpha] = penOf(image).getImageData(across, down, 1, 1).data;
    const strength = Math.min((alpha / 255 / 0.94) ** (4 / 3), 1);
    const value = strength * Number(image.dataset.end);
    if (value === 0) return "0";
    const beyond = strength > 0.995 ? "\u2265\u202f" : "\u2248\u202f";
    return (red > blue ? "for " : "against ") + beyond + value.toPrecision(2);
  };
  addEventListener("pointermove", (event) => {
    const frame = event.target instanceof Element ? event.target.closest(".frame.mapped") : null;
    const image = frame && [...frame.querySelectorAll(".heat")].find((one) => getComputedStyle(one).display !== "none");
    probe.hidden = !image || !image.complete || !image.dataset.end;
    if (probe.hidden) return;
    const owner = lens.open ? lens : document.body;
    if (probe.parentNode !== owner) owner.append(probe);
    probe.textContent = valueAt(image, event.clientX, event.clientY);
    probe.style.left = Math.min(event.clientX + 14, innerWidth - 130) + "px";
    probe.style.top = event.clientY + 16 + "px";
  }, { passive: true });

  addEventListener("scroll", () => { probe.hidden = true; }, { passive: true });

  /* Tables as files. */
  for (const table of document.querySelectorAll(".scroll > table")) {
    const link = document.createElement("a");
    link.href = "#";
    link.textContent = "CSV";
    link.download = (table.parentNode.getAttribute("aria-label") || "table").toLowerCase().replace(/[^\w.-]+/g, "-") + ".csv";
    link.setAttribute("aria-label", "Save this table as CSV");
    link.addEventListener("click", () => {
      const cell = (one) => {
        const whole = one.querySelector("[title]");
        const text = (one.querySelector(".name") && whole ? whole.title : one.textContent).replace(/\s+/g, " ").trim();
        return '"' + text.replaceAll('"', '""') + '"';
      };
      const lines = [...table.rows].map((row) => [...row.cells].map(cell).join(","));
      link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(lines.join("\r\n") + "\r\n");
    });
    const line = document.createElement("p");
    line.className = "csv";
    line.append(link);
    table.parentNode.after(line);
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
