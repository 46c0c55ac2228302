// The console works without JavaScript. This script adds keyboard shortcuts, copy buttons and automatic refresh.
"use strict";
(() => {
  const root = document.documentElement;
  const $ = (selector) => document.querySelector(selector);
  const rows = () => [...document.querySelectorAll(".rows tbody tr")];
  const remember = (name, value) => {
    document.cookie = `doorbell-${name}=${value}; path=/console; max-age=${value ? 31536000 : 0}; samesite=lax`;
  };
  const cookieOf = (name) => document.cookie.match(`(?:^|; )doorbell-${name}=([^;]*)`)?.[1];

  // Pages show times in the zone of the cookie. The first page does not have it yet, so it loads again.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const oldZone = cookieOf("zone");
  if (zone && zone !== oldZone) {
    remember("zone", zone);
    if (!oldZone && cookieOf("zone") && $("time")) location.reload();
  }

  // On a phone, the navigation is wider than the screen.
  $(".side nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

  if (matchMedia("(max-width: 936px)").matches) {
    for (const section of document.querySelectorAll(".fold")) section.open = false;
  }

  let previousKey = "";

  const moveFocus = (offset) => {
    const all = rows();
    const current = all.indexOf(document.activeElement.closest?.("tr"));
    const next = all[Math.min(all.length - 1, Math.max(0, current + offset))];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  };

  const focusedRow = () => document.activeElement.closest?.(".rows tbody tr");
  const openRow = () => focusedRow()?.dataset.open && location.assign(focusedRow().dataset.open);
  const toggleRow = () => {
    const box = focusedRow()?.querySelector("input[type=checkbox]");
    if (!box) return;
    box.checked = !box.checked;
    updateButtons();
  };
  const countSelected = () => document.querySelectorAll(".rows td.select input:checked").length;

  // Buttons for selected rows show the number of rows, and are disabled without one.
  const updateButtons = () => {
    const count = countSelected();
    for (const button of document.querySelectorAll("button[data-selected]")) {
      button.disabled = !count;
      button.textContent = `${button.dataset.selected} ${count ? `${count} ` : ""}selected…`;
    }
  };
  document.addEventListener("change", (event) => event.target.closest("td.select") && updateButtons());
  updateButtons();
  // "Back" may restore the checkboxes.
  addEventListener("pageshow", updateButtons);

  // Without a selection the button acts on the focused row.
  const act = (button) => {
    if (!button) return;
    if (button.matches("a")) return button.click();  // there is only one row
    if (!countSelected()) toggleRow();
    if (countSelected()) button.click();
  };

  const toggleTheme = () => {
    const prefersDark = matchMedia("(prefers-color-scheme: dark)").matches;
    const current = root.dataset.theme || (prefersDark ? "dark" : "light");
    root.dataset.theme = current === "dark" ? "light" : "dark";
    remember("theme", root.dataset.theme);
  };

  const pages = { o: "", v: "/visits", f: "/failures", d: "/deliveries", r: "/rejections", s: "/sources", w: "/workers" };
  const keys = {
    "/": () => $("#q")?.focus(),
    "?": () => $("#help")?.showModal(),
    j: () => moveFocus(1),
    k: () => moveFocus(-1),
    o: openRow,
    x: toggleRow,
    A: () => $("#all")?.click(),
    R: () => act($("#replay") ?? $("#all")),
    D: () => act($("#discard") ?? $("#discard-all")),
    t: toggleTheme,
    p: () => $("#live-state:not([hidden])")?.click(),
  };

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=checkbox]), select, textarea, [contenteditable]");
    if (event.key === "Escape" && typing) return typing.blur();
    if (root.dataset.keys === "off" || typing || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
    if (previousKey === "g" && event.key in pages) {
      previousKey = "";
      return location.assign("/console" + pages[event.key]);
    }
    previousKey = event.key;
    if (event.key === "Enter" && event.target.matches("tr")) return openRow();
    const action = keys[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });

  // The live element refreshes when the stream reports a change, and every 15 s because it shows ages. Without a stream, and
  // with data-poll, because the stream does not report its changes, it polls every 5 s. A hidden page and a paused one do not
  // refresh.
  const liveElement = () => $("[data-live]");
  const stateButton = $("#live-state");
  let stream, state, failedConnects = 0, ticks = 0, timer = 0, refreshedAt = 0;

  const show = (newState) => {
    if (state === newState) return;
    state = stateButton.textContent = stateButton.dataset.state = newState;
    stateButton.hidden = false;
    const announcements = { paused: "Automatic refresh is paused.", polling: "Refreshes every 5 seconds." };
    $("#live-announcement").textContent = announcements[newState] ?? "";
  };

  // Refreshes at most once in data-live seconds.
  const refresh = () => {
    if (timer) return;
    timer = setTimeout(() => {
      timer = 0;
      refreshedAt = Date.now();
      if (state !== "paused" && !liveElement().contains(document.activeElement)) htmx.trigger(liveElement(), "live");
    }, Math.max(0, refreshedAt + liveElement().dataset.live * 1000 - Date.now()));
  };

  const connect = () => {
    stream?.close();
    stream = new EventSource("/console/stream");
    stream.onopen = () => {
      failedConnects = 0;
      show("live");
      refresh();
    };
    stream.onmessage = (event) => {
      const ids = new Set(JSON.parse(event.data));
      for (const row of rows()) {
        const cell = row.querySelector("[hx-get]");
        if (cell && row.dataset.ids.split(" ").some((id) => ids.has(id))) htmx.trigger(cell, "live");
      }
      refresh();
    };
    stream.onerror = () => {
      failedConnects += 1;
      if (stream.readyState === EventSource.CONNECTING && failedConnects < 3) return show("reconnecting");
      stream.close();
      show("polling");
    };
  };

  const pause = () => {
    stream?.close();
    show("paused");
  };

  if (liveElement()) {
    let isOn = true;
    const update = () => {
      failedConnects = 0;
      if (isOn && !document.hidden) connect();
      else pause();
    };
    stateButton.addEventListener("click", () => {
      isOn = !isOn;
      update();
    });
    document.addEventListener("visibilitychange", update);
    setInterval(() => {
      ticks += 1;
      if (state === "polling" || "poll" in liveElement().dataset || ticks % 3 === 0) refresh();
      if (state === "polling" && ticks % 12 === 0) connect();
    }, 5000);
    // A page that shows more than the stream reports.
    if (liveElement().dataset.pollS) setInterval(refresh, liveElement().dataset.pollS * 1000);
    update();
  }

  // A refresh between the press and the release of a button would lose the click. The click follows the release.
  let isPressed = false, released = 0;
  document.addEventListener("pointerdown", () => {
    clearTimeout(released);  // of the click before, if this one is fast
    isPressed = true;
  }, true);
  for (const name of ["pointerup", "pointercancel", "dragend"]) document.addEventListener(name, () => (released = setTimeout(() => (isPressed = false))), true);
  document.addEventListener("htmx:beforeSwap", ({ detail, target }) => {
    if (isPressed && target.matches("[hx-trigger=live], [hx-trigger^=every]")) detail.shouldSwap = false;
  });

  // A click on a row opens it, unless it is on something else that reacts, or selects text.
  document.addEventListener("click", ({ target }) => {
    const address = target.closest(".rows tr[data-open]")?.dataset.open;
    if (address && !target.closest("a, button, input, summary, td.select") && !String(getSelection())) location.assign(address);
  });

  // A choice with the mouse shows its result. The keyboard passes through other choices, so it needs the button.
  let usesPointer = false;
  document.addEventListener("pointerdown", () => (usesPointer = true), true);
  document.addEventListener("keydown", () => (usesPointer = false), true);
  document.addEventListener("change", ({ target }) => {
    if (usesPointer && target.matches(".filters:is([method=get], [action='/console/deliveries']) select")) target.form.requestSubmit();
  });

  const selectAll = $("#select-all");
  if (selectAll) {
    selectAll.hidden = false;
    selectAll.addEventListener("change", () => {
      for (const box of document.querySelectorAll("td.select input")) box.checked = selectAll.checked;
      updateButtons();
    });
  }

  // `navigator.clipboard` exists only on https and localhost.
  const copy = (element) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent);
    getSelection().selectAllChildren(element);
    return Promise.resolve(document.execCommand("copy"));
  };
  const copyable = new Set();
  for (const element of document.querySelectorAll(".copy")) {
    // A value that a recipe repeats has one button.
    const group = element.closest(".recipe")?.getAttribute("aria-label");
    if (group && copyable.has(group + element.textContent)) continue;
    copyable.add(group + element.textContent);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await copy(element);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    button.setAttribute("aria-label", `Copy ${element.textContent.slice(0, 60)}`);
    (element.closest("pre") ?? element).after(button);
  }

  // While the server does not answer, a reload would replace the page by an error of the browser.
  const reloading = $("[data-reload-s]");
  if (reloading) {
    setInterval(() => fetch(location.href).then(() => location.reload(), () => {}), Number(reloading.dataset.reloadS) * 1000);
  }
})();
