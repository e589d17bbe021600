// Where the page begins. TensorBoard calls `render`; elsewhere an element of the page says where its numbers are.

import { App } from "./app.js";
import { create } from "./dom.js";
import { Embedded, Served } from "./data.js";

export function render() {
  const style = new URL("./style.css", import.meta.url);
  document.head.append(create("link", { rel: "stylesheet", href: style }));
  document.body.append(create("div", { id: "probes" }));
  return begin(new Served(new URL("./api/", import.meta.url), null));
}

export const begin = (source) => new App(document.getElementById("probes"), source).start();

const embedded = document.getElementById("probes-data");
if (embedded) begin(new Embedded(JSON.parse(embedded.textContent)));
else if (document.getElementById("probes")) begin(new Served(new URL("./api/", location.href), new URLSearchParams(location.search).get("token")));
