(function () {
  var result = document.getElementById("result");
  if (!result || window.parent === window) return;
  var message = { name: "finch-auth-message-v2", kind: result.dataset.kind };
  if (message.kind === "success") {
    message.code = result.dataset.code;
    if (result.dataset.state) message.state = result.dataset.state;
  }
  window.parent.postMessage(message, "*");
})();
