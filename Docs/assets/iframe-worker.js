/* Search runs in a web worker, which browsers refuse to start in a page that is opened as a file. There a hidden frame
   takes its place: it loads the worker's script and exchanges the same messages. */
"use strict";

// Runs in the frame: a worker's postMessage names no target, and a worker loads further scripts by importScripts.
function actAsWorker() {
  const load = (address) =>
    new Promise((resolve) => {
      const script = document.createElement("script");
      script.src = address;
      script.onload = resolve;
      document.body.append(script);
    });
  window.postMessage = (data) => parent.postMessage(data, "*");
  window.importScripts = (...addresses) =>
    addresses.reduce((before, address) => before.then(() => load(address)), Promise.resolve());
}

class FrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    const inside = this.frame.contentWindow;
    inside.document.open();
    inside.document.write(`<body><script>(${actAsWorker})()</script><script src="${url}"></script></body>`);
    inside.document.close();
    this.ready = new Promise((resolve) => inside.addEventListener("load", resolve));
    window.addEventListener("message", (event) => {
      if (event.source === inside) {
        this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      }
    });
  }

  postMessage(data) {
    this.ready.then(() => {
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }));
    });
  }

  terminate() {
    this.frame.remove();
  }
}

if (location.protocol === "file:") {
  window.Worker = FrameWorker;
}
