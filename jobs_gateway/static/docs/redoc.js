"use strict";

// Redoc's footer fetches a logo from another host. There is no other image on this page, so it gets none at all.
document.createElement = (name, ...options) =>
  Document.prototype.createElement.call(document, name === "img" ? "span" : name, ...options);

const docs = document.getElementById("docs");
Redoc.init(docs.dataset.document, {}, docs);
