//! Contract section 2: the webhook at the root of a host, with the web server configuration that `deploy/` ships.

use crate::fixture::*;
use serde_json::json;
use support::webserver::{Kind, Setup, WebServer, ALL};

fn start(proxy: &Proxy, kind: Kind) -> WebServer {
    WebServer::start_with(&proxy.sandbox, kind, &Setup { root: true, ..Setup::default() })
}

#[test]
fn a_webhook_at_the_root_of_a_host_answers_under_every_web_server() {
    for kind in ALL {
        let proxy = Proxy::installed();
        let server = start(&proxy, kind);
        let hook = |version: &str, call: &str| format!("/rest/{version}1/{TOKEN}/{call}");
        let call = || {
            let ledger = proxy.simulator.ledger();
            ledger.last_call().unwrap().call().unwrap().clone()
        };

        let get = hook("", "crm.deal.Add.json?fields%5BTITLE%5D=%D0%A1+%26%25&a=b%2Bc&");
        let answer = server.request("GET", &get).send();
        assert_eq!(answer.status, 200, "{kind:?}: {} {}", answer.text(), server.error_log());
        assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
        assert_eq!(call().params, json!({"fields": {"TITLE": "С &%"}, "a": "b+c"}), "{kind:?}");
        assert_eq!(proxy.simulator.ledger().last_call().unwrap().answer, answer.body, "{kind:?}");

        let answer = server.request("POST", &hook("", "sim.echo?q=1")).json(r#"{"a":null}"#).send();
        assert_eq!(answer.json()["result"], json!({"q": "1", "a": null}), "{kind:?}: {}", answer.text());
        let answer = server.request("POST", &hook("api/", "batch")).json(r#"[{"method":"profile"}]"#).send();
        assert_eq!(answer.json()["result"][0]["ID"], "1", "{kind:?}: {}", answer.text());
        let named = format!("/{}{}", proxy.portal().name(), hook("", "profile.xml"));
        let answer = server.request("GET", &named).send();
        assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text());
        assert_eq!(answer.header("Content-Type"), Some("text/xml; charset=utf-8"));

        let answer = server.request("GET", "/rest/1/wrong-token-wrong-token/profile").send();
        assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("NO_AUTH_FOUND")), "{kind:?}");
        let head = server.request("HEAD", &hook("", "profile")).send();
        assert!(head.status == 405 && head.header("Content-Length").is_some(), "{kind:?}: {:?}", head.headers);
        // The program's own address works as before, and nothing else of it is at the root.
        let answer = server.request("GET", &format!("/cgi-bin/b24proxy{}", hook("", "profile"))).send();
        assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text());
        for path in ["/health", "/install", "/restx/1/2/3", "/x/rest/1/2/3"] {
            let answer = server.request("GET", path).send();
            assert_eq!(answer.status, 404, "{kind:?} {path}: {}", answer.text());
            assert!(answer.json_or_nothing().is_none(), "{kind:?} {path}: {}", answer.text());
        }
        let large =
            format!("{{\"a\":\"{}\"}}", "x".repeat(if kind.takes_large_bodies() { 2 << 20 } else { 100 << 10 }));
        let answer = server.request("POST", &hook("", "sim.echo")).json(large.clone()).send();
        assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text());
        assert!(answer.body.len() > large.len());
        // A line break in the address does not change what is called.
        let count = proxy.simulator.ledger().all_calls().count();
        let answer = server.request("GET", &hook("", "crm.deal.add%0Ax")).send();
        assert!((400..500).contains(&answer.status), "{kind:?}: {}", answer.status);
        assert_eq!(proxy.simulator.ledger().all_calls().count(), count, "{kind:?}");
    }
}

trait MaybeJson {
    fn json_or_nothing(&self) -> Option<serde_json::Value>;
}

impl MaybeJson for support::http::Answer {
    fn json_or_nothing(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }
}
