//! What a browser sees: the authorization page, the frame around an application, and a stand-in for
//! the script that applications load from api.bitrix24.com.

use std::sync::Arc;

use crate::faults::Moment;
use crate::http::{Reply, Request};
use crate::ledger::Kind;
use crate::params::{self, encode_pairs};
use crate::php::{Array, Php};
use crate::portal::frame_form;
use crate::state::Shared;
use crate::xml::escape;

/// Answers everything of a portal that is not REST.
pub(crate) fn answer(shared: &Arc<Shared>, portal: usize, listener: &str, request: &Request) -> Reply {
    let params = params::of_form(request, params::parse_query(request.query.as_bytes()));
    let text = |name| params.get(name).map(Php::to_text).unwrap_or_default();
    let kind = match request.path.as_str() {
        "/oauth/authorize" | "/oauth/authorize/agree" => {
            Kind::Authorize { client_id: text("client_id"), state: text("state") }
        }
        "/marketplace/app/finish" => Kind::InstallFinished,
        _ => Kind::Other,
    };
    let now = shared.clock.now();
    let number = shared.ledger.begin(now, listener, request, kind);
    let mut struck = Vec::new();
    let reply = match request.path.as_str() {
        "/oauth/authorize" => {
            let moment = Moment::Authorize(portal);
            shared.faults.around(&moment, &mut struck, || authorize(shared, portal, &params))
        }
        "/oauth/authorize/agree" => {
            let user = params.get("user").and_then(Php::to_int).unwrap_or(1);
            agree(shared, portal, user as u32, &params)
        }
        "/marketplace/app" => frame(shared, portal, &params),
        "/marketplace/app/finish" => Reply::json(200, r#"{"result":true}"#),
        "/api/v1" => Reply::new(200, "application/javascript; charset=utf-8", SCRIPT),
        _ => Reply::html(404, "<html><body>404 Not Found</body></html>"),
    };
    shared.ledger.finish(number, &reply, struck);
    reply
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
    )
}

fn authorize(shared: &Shared, portal: usize, params: &Array) -> Reply {
    let auto_agree = shared.state().auto_agree;
    if auto_agree {
        return agree(shared, portal, 1, params);
    }
    let text = |name| params.get(name).map(Php::to_text).unwrap_or_default();
    let mut body = String::from("<p>An application asks for access to this Bitrix24.</p>\n");
    for (user, admin) in shared.state().portals[portal].users.clone() {
        let role = if admin { "administrator" } else { "employee" };
        body.push_str(&format!(
            "<form method=\"post\" action=\"/oauth/authorize/agree\">\
             <input type=\"hidden\" name=\"client_id\" value=\"{}\">\
             <input type=\"hidden\" name=\"state\" value=\"{}\">\
             <input type=\"hidden\" name=\"user\" value=\"{user}\">\
             <button id=\"{role}\" type=\"submit\">Log in as {role} {user} and agree</button></form>\n",
            escape(&text("client_id")),
            escape(&text("state")),
        ));
    }
    Reply::html(200, page("Bitrix24", &body))
}

/// Sends the browser to the application's own redirect address, whatever `redirect_uri` says.
fn agree(shared: &Shared, index: usize, user: u32, params: &Array) -> Reply {
    let text = |name| params.get(name).map(Php::to_text).unwrap_or_default();
    let now = shared.clock.now();
    let mut state = shared.state();
    let client_id = text("client_id");
    if client_id != state.portals[index].application.client_id {
        return Reply::html(400, page("Bitrix24", "<p>invalid_client: no such application</p>"));
    }
    let code = state.oauth.add_code(index, user, &client_id, now);
    let portal = &state.portals[index];
    let query = encode_pairs(&[
        ("code", code.as_str()),
        ("state", &text("state")),
        ("domain", &portal.name),
        ("member_id", &portal.member_id),
        ("scope", &portal.scope),
        ("server_domain", &state.oauth_name),
    ]);
    let joint = if state.redirect_uri.contains('?') { '&' } else { '?' };
    Reply::redirect(&format!("{}{joint}{query}", state.redirect_uri))
}

/// Opens the application in a frame, as Bitrix24's own page does: by a form posted into it.
fn frame(shared: &Arc<Shared>, index: usize, params: &Array) -> Reply {
    let user = params.get("user").and_then(Php::to_int).unwrap_or(1) as u32;
    let form = frame_form(shared, index, user);
    let state = shared.state();
    let portal = &state.portals[index];
    let name = format!("{}|{}|{}", portal.name, u8::from(portal.https), form.app_sid);
    let mut body = format!(
        "<iframe name=\"{}\" id=\"application\" width=\"900\" height=\"500\"></iframe>\n\
         <form id=\"open\" method=\"post\" target=\"{}\" action=\"{}?{}\">\n",
        escape(&name),
        escape(&name),
        escape(&state.handler_url),
        escape(&form.query)
    );
    for (field, value) in &form.fields {
        body.push_str(&format!("<input type=\"hidden\" name=\"{}\" value=\"{}\">\n", escape(field), escape(value)));
    }
    body.push_str("</form>\n<p id=\"finished\">not finished</p>\n<script>\n");
    body.push_str(FRAME_SCRIPT);
    body.push_str("</script>");
    Reply::html(200, page("Application", &body))
}

const FRAME_SCRIPT: &str = r#"
window.addEventListener("message", function (event) {
  if (String(event.data).indexOf("installFinish:") !== 0) { return; }
  fetch("/marketplace/app/finish", {method: "POST", body: String(event.data)}).then(function () {
    document.getElementById("finished").textContent = "finished";
  });
});
document.getElementById("open").submit();
"#;

/// `BX24` of https://api.bitrix24.com/api/v1/, as far as an installation page uses it. As there,
/// the page talks to the portal through the window around it.
const SCRIPT: &str = r#"(function () {
  var parts = String(window.name).split("|");
  function tell(command) {
    if (window.parent !== window) {
      window.parent.postMessage(command + ":" + parts.join("|"), "*");
    }
  }
  window.BX24 = {
    init: function (callback) {
      function ready() { setTimeout(function () { if (callback) { callback(); } }, 0); }
      if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", ready);
      } else {
        ready();
      }
    },
    install: function (callback) { this.init(callback); },
    installFinish: function () { tell("installFinish"); },
    getDomain: function () { return parts[0]; },
    isAdmin: function () { return true; },
    fitWindow: function () {},
    resizeWindow: function () {},
    ready: function (callback) { this.init(callback); }
  };
})();
"#;
