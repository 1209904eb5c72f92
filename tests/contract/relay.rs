//! Contract sections 2 and 3: one REST call, relayed.

use crate::fixture::*;
use serde_json::json;

#[test]
fn a_call_is_answered_with_bitrix24s_own_answer_byte_for_byte() {
    let proxy = Proxy::installed();
    let answer = proxy.call("catalog.product.add", json!({"fields": {"iblockId": 15, "name": "Стол"}}));
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    let ledger = proxy.simulator.ledger();
    let sent = String::from_utf8(ledger.of_method("catalog.product.add").next().unwrap().answer.clone()).unwrap();
    assert_eq!(answer.text(), format!("{{\"success\":true,\"data\":{sent}}}"));
}

#[test]
fn fifty_callers_on_an_expired_token_cause_one_refresh_and_get_fifty_answers() {
    let proxy = Proxy::installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    std::thread::scope(|scope| {
        for i in 0..50 {
            let proxy = &proxy;
            scope.spawn(move || {
                let answer = proxy.call("sim.echo", json!({ "i": i }));
                assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
                assert_eq!(answer.json()["data"]["result"]["i"], i);
            });
        }
    });
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}
