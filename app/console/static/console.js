// Everything works without this; it adds keys, copying, and pages that refresh themselves.
"use strict";
(() => {
  const root = document.documentElement;
  const $ = (selector) => document.querySelector(selector);
  const rows = () => [...document.querySelectorAll(".rows tbody tr")];
  const remember = (name, value) => {
    document.cookie = `doorbell-${name}=${value}; path=/console; max-age=${value ? 31536000 : 0}; samesite=lax`;
  };
  let before = "";

  const step = (by) => {
    const all = rows();
    const at = all.indexOf(document.activeElement.closest?.("tr"));
    const next = all[Math.min(all.length - 1, Math.max(0, at + by))];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  };

  const row = () => document.activeElement.closest?.(".rows tbody tr");
  const open = () => row()?.dataset.open && location.assign(row().dataset.open);
  const tick = () => {
    const box = row()?.querySelector("input[type=checkbox]");
    if (!box) return;
    box.checked = !box.checked;
    showTicked();
  };
  const ticked = () => document.querySelectorAll(".rows td.tick input:checked").length;

  // Buttons for ticked rows say how many there are, and are disabled while there is none.
  const showTicked = () => {
    const count = ticked();
    for (const button of document.querySelectorAll("button[data-ticked]")) {
      button.disabled = !count;
      button.textContent = `${button.dataset.ticked} ${count ? `${count} ` : ""}ticked…`;
    }
  };
  document.addEventListener("change", (event) => event.target.closest("td.tick") && showTicked());
  showTicked();
  // After "Back" a browser may have restored the ticks.
  addEventListener("pageshow", showTicked);

  // With nothing ticked, the row under the hand is meant.
  const act = (button) => {
    if (!button) return;
    if (!ticked()) tick();
    if (ticked()) button.click();
  };

  const turn = () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = root.dataset.theme || (dark ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    remember("theme", root.dataset.theme);
  };

  const places = { o: "", f: "/failures", d: "/deliveries", r: "/rejections", s: "/sources", w: "/workers" };
  const keys = {
    "/": () => $("#q")?.focus(),
    "?": () => $("#help")?.showModal(),
    j: () => step(1),
    k: () => step(-1),
    o: open,
    x: tick,
    A: () => $("#all")?.click(),
    R: () => act($("#replay")),
    D: () => act($("#discard")),
    t: turn,
    p: () => $("#live-state:not([hidden])")?.click(),
  };

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=checkbox]), select, textarea, [contenteditable]");
    if (event.key === "Escape" && typing) return typing.blur();
    if (root.dataset.keys === "off" || typing || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
    if (before === "g" && event.key in places) {
      before = "";
      return location.assign("/console" + places[event.key]);
    }
    before = event.key;
    if (event.key === "Enter" && event.target.matches("tr")) return open();
    const does = keys[event.key];
    if (does) {
      event.preventDefault();
      does();
    }
  });

  // What is live asks again when the stream says that something happened, and every 15 s, since ages are told too; where
  // there is no stream, every 5 s. What nobody looks at, and what somebody paused, asks for nothing.
  const live = () => $("[data-live]");
  const shown = $("#live-state");
  let stream, state, tries = 0, ticks = 0, due = 0, asked = 0;

  const show = (now) => {
    if (state === now) return;
    state = shown.textContent = shown.dataset.state = now;
    shown.hidden = false;
    $("#live-said").textContent = { paused: "Nothing refreshes itself.", polling: "Refreshed every 5 seconds." }[now] ?? "";
  };

  const refresh = () => {
    if (due) return;
    due = setTimeout(() => {
      due = 0;
      asked = Date.now();
      if (state !== "paused" && !live().contains(document.activeElement)) htmx.trigger(live(), "live");
    }, Math.max(0, asked + live().dataset.live * 1000 - Date.now()));
  };

  const listen = () => {
    stream?.close();
    stream = new EventSource("/console/stream");
    stream.onopen = () => {
      tries = 0;
      show("live");
      refresh();
    };
    stream.onmessage = (event) => {
      const names = new Set(JSON.parse(event.data));
      for (const row of rows()) {
        const cell = row.querySelector("[hx-get]");
        if (cell && row.dataset.names.split(" ").some((name) => names.has(name))) htmx.trigger(cell, "live");
      }
      refresh();
    };
    stream.onerror = () => {
      tries += 1;
      if (stream.readyState === EventSource.CONNECTING && tries < 3) return show("reconnecting");
      stream.close();
      show("polling");
    };
  };

  const pause = () => {
    stream?.close();
    show("paused");
  };

  if (live()) {
    let wanted = true;
    const look = () => {
      tries = 0;
      if (wanted && !document.hidden) listen();
      else pause();
    };
    shown.addEventListener("click", () => {
      wanted = !wanted;
      look();
    });
    document.addEventListener("visibilitychange", look);
    setInterval(() => {
      ticks += 1;
      if (state === "polling" || ticks % 3 === 0) refresh();
      if (state === "polling" && ticks % 12 === 0) listen();
    }, 5000);
    look();
  }

  const all = $("#tick-all");
  if (all) {
    all.hidden = false;
    all.addEventListener("change", () => {
      for (const box of document.querySelectorAll("td.tick input")) box.checked = all.checked;
      showTicked();
    });
  }

  // `navigator.clipboard` exists on https and localhost only.
  const copy = (element) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
    getSelection().selectAllChildren(element);
    return Promise.resolve(document.execCommand("copy"));
  };
  for (const element of document.querySelectorAll(".copy")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await copy(element);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    element.after(button);
  }

  const again = $("[data-again]");
  if (again) setTimeout(() => location.reload(), Number(again.dataset.again) * 1000);
})();
