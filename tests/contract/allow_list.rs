//! Contract section 1, "Who may call": a client's list of methods cannot be got round.

use crate::fixture::*;
use serde_json::json;
use support::cgi::{Answer, Cgi};

/// A proxy whose one client may call `crm.*` and `batch`.
fn restricted() -> Proxy {
    Proxy::installed().reconfigured(
        &format!("auth_token = \"{TOKEN}\""),
        &format!(
            "[[security.clients]]\nname = \"crm\"\ntoken = \"{TOKEN}\"\nmethods = [\"CRM.*\", \"catalog.product.get\", \"batch\"]"
        ),
    )
}

fn hook<'p>(proxy: &'p Proxy, version: &str, call: &str) -> Cgi<'p> {
    let (method, query) = call.split_once('?').unwrap_or((call, ""));
    Cgi::new(&proxy.sandbox).method("POST").path(&format!("/rest/{version}1/{TOKEN}/{method}")).query(query)
}

#[track_caller]
fn assert_refused(proxy: &Proxy, answer: &Answer, what: &str) {
    assert_eq!(answer.status, 403, "{what}: {}", answer.text());
    let code = ["FORBIDDEN", "BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION"];
    assert!(code.iter().any(|code| answer.text().contains(code)), "{what}: {}", answer.text());
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0, "{what} was sent");
}

#[test]
fn a_method_is_compared_in_any_case_and_without_its_suffix() {
    let proxy = restricted();
    for call in
        ["crm.deal.list", "CRM.Deal.List", "crm.deal.list.JSON", "Crm.deal.list.xml", "catalog.Product.GET?id=1"]
    {
        let status = hook(&proxy, "", call).run().status;
        assert!(status == 200 || call.starts_with("catalog") && status == 400, "{call}: {status}");
    }
    let proxy = restricted();
    for call in [
        "user.current",
        "USER.Current.json",
        "catalog.product.add",
        "crmx.deal",
        "profile.crm.json",
        "crm",
        "_crm.deal.list",
    ] {
        assert_refused(&proxy, &hook(&proxy, "", call).run(), call);
        assert_refused(&proxy, &hook(&proxy, "api/", call).json("{}").run(), call);
    }
    let call = json!({"method": "USER.current.json", "params": {}});
    assert_failure(&proxy.request(call.to_string()).run(), 403, "forbidden");
}

#[test]
fn an_allowed_batch_arrives_whatever_its_shape() {
    for (call, content_type, body) in [
        ("batch?halt=1&cmd[a]=crm.deal.list&cmd[b]=crm.deal.fields", "", ""),
        (
            "BATCH.json?bx24_request_id=1",
            "application/json",
            r#"{"CMD":{"a":"crm.deal.list","b":"crm.deal.fields"},"halt":1}"#,
        ),
        (
            "batch",
            "application/x-www-form-urlencoded",
            "Cmd%5Ba%5D=crm.deal.list&cmd_=user.get&Cmd[b]=crm.deal.fields&HALT=1",
        ),
        (
            "batch?halt=1",
            "multipart/form-data; boundary=X",
            "--X\r\nContent-Disposition: form-data; name=\"cmd[a]\"\r\n\r\ncrm.deal.list\r\n\
             --X\r\nContent-Disposition: form-data; name=\"cmd[b]\"\r\n\r\ncrm.deal.fields\r\n--X--\r\n",
        ),
    ] {
        let proxy = restricted();
        let answer = hook(&proxy, "", call).header("Content-Type", content_type).body(body).run();
        assert_eq!(answer.status, 200, "{call}: {} {}", answer.text(), answer.stderr);
        let ledger = proxy.simulator.ledger();
        let call = ledger.last_call().unwrap().call().unwrap();
        let ran: Vec<_> = call.commands.iter().map(|c| (c.id.as_str(), c.method.as_str())).collect();
        assert_eq!(ran, [("a", "crm.deal.list"), ("b", "crm.deal.fields")]);
        assert_eq!(call.params["halt"], 1);
    }
}

#[test]
fn no_batch_carries_another_method() {
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    let part = "--X\r\nContent-Disposition: form-data; name=\"CMD[a]\"\r\n\r\nuser.current\r\n--X--\r\n";
    let proxy = restricted();
    for (call, content_type, body) in [
        ("batch", json, r#"{"cmd":["user.current"]}"#),
        ("Batch.JSON", json, r#"{"CMD":{"a":"USER.Current"}}"#),
        ("batch.xml", json, r#"{"cmd":{"a":"user.current.json"}}"#),
        ("batch", json, r#"{"\u0063md":{"a":"user.current"}}"#),
        ("batch?cmd[a]=user.current", "", ""),
        ("batch?cmd[a]=user.current", json, "{}"),
        ("batch?cmd[a]=user.current", json, r#"{"halt":0}"#),
        ("batch?cmd[a]=user.current", json, r#"{"cmd":["crm.deal.list"]}"#),
        ("batch?cmd[a]=crm.deal.list", form, "cmd[a]=user.current"),
        ("batch?CMD[a]=crm.deal.list", form, "cmd[b]=user.current"),
        ("batch?%63md%5Ba%5D=user.current", form, "a=1"),
        ("batch?+cmd[a]=user.current", "", ""),
        ("batch", "Application/Json;charset=utf-8", r#"{"cmd":["user.current"]}"#),
        ("batch", "multipart/form-data; boundary=X", part),
        ("batch", form, "cmd[a]=crm.deal.list&cmd[a]=user.current"),
        ("batch", form, "cmd[a]=user.current&cmd[a]=crm.deal.list"),
        ("batch", json, r#"{"cmd":{"a":"crm.deal.list","a":"user.current"}}"#),
        ("batch", json, r#"{"cmd":{"a":"crm.deal.list"},"Cmd":{"a":"user.current"}}"#),
        ("batch", json, r#"{"cmd":["https://host/user.current"]}"#),
        ("batch", json, r#"{"cmd":["crm.deal.list:user.current"]}"#),
        ("batch", json, r#"{"cmd":["crm.deal.list:80/user.current"]}"#),
        ("batch", json, r#"{"cmd":["//crm.deal.list/user.current"]}"#),
        ("batch", json, r#"{"cmd":["/user.current"]}"#),
        ("batch", json, r##"{"cmd":["user.current#crm.deal.list"]}"##),
        ("batch", json, r#"{"cmd":["crm.deal.list/../user.current"]}"#),
        ("batch", json, r#"{"cmd":["crm%2Edeal.list"]}"#),
        ("batch", json, r#"{"cmd":[" user.current"]}"#),
        ("batch", json, r#"{"cmd":[["user.current"]]}"#),
        ("batch", json, r#"{"cmd":[{"method":"user.current"}]}"#),
        ("batch", json, r#"{"cmd":["batch?cmd[a]=user.current"]}"#),
        ("batch", json, r#"{"cmd":["BATCH.json?cmd[a]=crm.deal.list"]}"#),
        ("batch", json, r#"{"cmd":"user.current"}"#),
    ] {
        let mut request = hook(&proxy, "", call);
        if !content_type.is_empty() {
            request = request.header("Content-Type", content_type).body(body);
        }
        assert_refused(&proxy, &request.run(), &format!("{call} {body}"));
    }
}

#[test]
fn no_rest_3_batch_carries_another_method() {
    let proxy = restricted();
    for body in [
        r#"[{"method":"user.current"}]"#,
        r#" [{"method":"USER.current"}]"#,
        r#"{"0":{"method":"crm.item.list"},"1":{"method":"tasks.task.list"}}"#,
        r#"[{"method":"crm.item.list","method":"user.current"}]"#,
        r#"[{"method":"crm.item.list","\u006dethod":"user.current"}]"#,
        r#"[{"method":"crm.item.list","METHOD":"user.current"}]"#,
        r#"[{"method":"batch","query":[{"method":"user.current"}]}]"#,
        r#"[{"method":["user.current"]}]"#,
        r#"{"a":{"method":"crm.item.list"},"a":{"method":"user.current"}}"#,
        r#"["user.current"]"#,
    ] {
        assert_refused(&proxy, &hook(&proxy, "api/", "batch").json(body).run(), body);
    }
    // What stands in the query is not passed on.
    let answer = hook(&proxy, "api/", "batch?0[method]=user.current").json(r#"[{"method":"profile"}]"#).run();
    assert_refused(&proxy, &answer, "query");
    let answer = hook(&proxy, "api/", "batch?9[method]=user.current").json(r#"[{"method":"crm.deal.list"}]"#).run();
    assert_ne!(answer.status, 403, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.last_call().unwrap().query, "");
}

#[test]
fn the_envelopes_batch_is_checked_too() {
    let proxy = restricted();
    for params in [
        json!({"cmd": ["user.current"]}),
        json!({"CMD": {"a": "crm.deal.list", "b": "x:user.current"}}),
        json!({"cmd": ["batch?cmd[]=crm.deal.list"]}),
    ] {
        assert_failure(&proxy.call("Batch.json", params), 403, "forbidden");
    }
    let call = json!({"method": "batch", "version": 3, "params": [{"method": "user.current"}]});
    assert_failure(&proxy.request(call.to_string()).run(), 403, "forbidden");
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
    assert_eq!(proxy.call("batch", json!({"cmd": {"a": "crm.deal.list"}})).status, 200);
}

#[test]
fn without_batch_in_the_list_no_batch_is_sent() {
    let proxy = restricted().reconfigured(", \"batch\"]", "]");
    let answer = hook(&proxy, "", "batch").json(r#"{"cmd":["crm.deal.list"]}"#).run();
    assert_refused(&proxy, &answer, "batch");
}

#[test]
fn a_batch_is_read_no_further_than_the_50_commands_that_bitrix24_runs() {
    let commands = |count: usize, last: &'static str| {
        let mut commands = vec!["crm.deal.list"; count - 1];
        commands.push(last);
        commands
    };
    let proxy = restricted();
    let (most, more) = (commands(50, "crm.deal.list"), commands(51, "user.get"));
    let form = |commands: &[&str]| commands.iter().map(|command| format!("cmd[]={command}&")).collect::<String>();
    let list = |commands: &[&str]| json!({ "cmd": commands }).to_string();
    let rest3 = |commands: &[&str]| {
        let commands: Vec<_> = commands.iter().map(|method| json!({ "method": method })).collect();
        json!(commands).to_string()
    };
    for too_many in [
        hook(&proxy, "", "batch").json(list(&more)).run(),
        hook(&proxy, "", "batch").form(&form(&more)).run(),
        hook(&proxy, "", &format!("batch?{}", form(&more))).run(),
        hook(&proxy, "api/", "batch").json(rest3(&more)).run(),
        proxy.request(json!({"method": "batch", "params": {"cmd": more}}).to_string()).run(),
    ] {
        assert_eq!(too_many.status, 400, "{}", too_many.text());
        assert!(too_many.text().contains("50 commands"), "{}", too_many.text());
    }
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
    assert_eq!(hook(&proxy, "", "batch").form(&form(&most)).run().status, 200);
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.list"), 50);
}
