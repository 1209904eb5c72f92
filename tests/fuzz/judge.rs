//! What must hold after each request.

use crate::requests::Caller;
use crate::world::{Ended, Prepared, Sent, World};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use serde_json::value::RawValue;
use serde_json::Value;
use simulator::{Call, Kind, Ledger};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use support::cgi;

/// Methods that change something.
const WRITING: &[&str] = &["crm.deal.add", "crm.deal.update", "tasks.task.add", "task.commentitem.add"];

/// What a request was answered and did.
pub struct Verdict {
    pub status: u16,
    pub body: Vec<u8>,
    pub executed: BTreeMap<String, usize>,
    pub reached: bool,
}

/// Judges an ended request; the error says what is wrong.
pub fn judge(world: &World, sent: &Sent, before: &Prepared, ended: &Ended) -> Result<Verdict, String> {
    match ended.exit {
        None => return Err(format!("no end after {:?}", ended.elapsed)),
        Some(exit) if !exit.success() => return Err(exit.to_string()),
        Some(_) => {}
    }
    let is_head = sent.variable("REQUEST_METHOD") == b"HEAD";
    let (status, headers, body) =
        cgi::parse(&ended.stdout, is_head).map_err(|problem| format!("not a CGI answer: {problem}"))?;
    log_is_sound(&ended.log)?;
    if let Some(what) = ended.unsettled {
        return Err(what.into());
    }

    let ledger = world.proxy.simulator.ledger();
    let shown = format!("{headers:?} {} {}", String::from_utf8_lossy(&body), ended.log);
    let mut secrets = world.secrets(sent);
    let now = world.stored_bytes();
    let is_there = now.is_some();
    let now = now.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    for tokens in before.stored.iter().chain(&now) {
        secrets.extend(["access_token", "refresh_token"].iter().filter_map(|n| tokens[n].as_str().map(str::to_owned)));
    }
    for secret in secrets.iter().filter(|secret| secret.len() >= 16 && !world.posted.contains(secret)) {
        if shown.contains(secret.as_str()) {
            return Err(format!("a secret is shown: {secret}"));
        }
    }
    if ledger.portals_saw(world.value("@SECRET@")) {
        return Err("a portal was sent the client secret".into());
    }
    if ledger.connections(world.value("@STRANGER@")) > 0 {
        return Err("somebody was contacted who is not configured".into());
    }
    if !before.damaged && before.stored.is_some() && now.is_none() && is_there {
        return Err("the token file was whole and is not any more".into());
    }
    let executed = executed_no_more_than_asked(sent, &ledger)?;
    let reached = ledger.entries.iter().any(|entry| matches!(entry.kind, Kind::Call(_)));
    let is_envelope = body.starts_with(b"{\"success\":");
    if !before.damaged && is_envelope && serde_json::from_slice::<&RawValue>(&body).is_err() {
        return Err("the answer is an envelope and not JSON".into());
    }
    Ok(Verdict { status, body, executed, reached })
}

fn log_is_sound(log: &str) -> Result<(), String> {
    for trace in ["internal error at", "panicked", "the refresher ended"] {
        if log.contains(trace) {
            return Err(format!("the log says {trace:?}"));
        }
    }
    match log.lines().find(|line| !serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object())) {
        Some(line) => Err(format!("a line of the log is no JSON object: {line}")),
        None => Ok(()),
    }
}

/// How often each method was run, which must be allowed by what was asked for.
fn executed_no_more_than_asked(sent: &Sent, ledger: &Ledger) -> Result<BTreeMap<String, usize>, String> {
    let mut executed = BTreeMap::<String, usize>::new();
    let mut alone = 0;
    // An installation registers for the application's removal.
    let of_installing = |call: &Call| call.method == "event.bind" && call.params["event"] == "ONAPPUNINSTALL";
    for call in ledger.all_calls().filter(|call| call.executed && !of_installing(call)) {
        alone += 1;
        // What a batch runs counts; the batch itself is only its envelope.
        let of_batch = call.commands.iter().map(|command| &command.method);
        for method in of_batch.chain((call.method != "batch").then_some(&call.method)) {
            *executed.entry(method.clone()).or_default() += 1;
        }
    }
    let may = |method: &str| match sent.caller {
        // Of what a stranger shows, this program asks whose it is.
        Caller::Nobody => method == "profile",
        Caller::Narrow => method.starts_with("crm.deal."),
        Caller::Client => true,
    };
    if let Some(method) = executed.keys().find(|method| !may(method)) {
        return Err(format!("{:?} had {method} executed", sent.caller));
    }
    let asked = Asked::of(&sent.body);
    if sent.caller != Caller::Nobody && !asked.all && asked.calls.is_none() && alone > 1 {
        return Err(format!("one call was executed {alone} times"));
    }
    for (method, times) in &executed {
        let is_bounded = asked.calls.is_some() || (asked.all && WRITING.contains(&method.as_str()));
        let allowed = asked.calls.as_ref().and_then(|calls| calls.get(method)).copied().unwrap_or(0).max(1);
        if is_bounded && *times > allowed {
            return Err(format!("{method} was asked for {allowed} times and executed {times} times"));
        }
    }
    Ok(executed)
}

/// What a body asks for, if it is read as an envelope.
#[derive(Default)]
pub struct Asked {
    /// How often each method stands in `calls`.
    pub calls: Option<HashMap<String, usize>>,
    all: bool,
}

impl Asked {
    /// Of the body as it is, or else of what may be packed in it.
    pub fn of(body: &[u8]) -> Asked {
        let mut unpacked: [Vec<u8>; 3] = Default::default();
        let [gzip, zlib, bare] = &mut unpacked;
        // What is cut or damaged asks for what comes out of it at most.
        let _ = MultiGzDecoder::new(body).read_to_end(gzip);
        let _ = ZlibDecoder::new(body).read_to_end(zlib);
        let _ = DeflateDecoder::new(body).read_to_end(bare);
        let forms = std::iter::once(body).chain(unpacked.iter().map(Vec::as_slice));
        forms.map(Asked::of_text).find(|asked| asked.all || asked.calls.is_some()).unwrap_or_default()
    }

    fn of_text(body: &[u8]) -> Asked {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let fields: HashMap<String, &RawValue> = serde_json::from_slice(body).unwrap_or_default();
        let calls = fields.get("calls").and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok());
        let method = |call: &&RawValue| {
            let fields: HashMap<String, &RawValue> = serde_json::from_str(call.get()).ok()?;
            let name: String = serde_json::from_str(fields.get("method")?.get()).ok()?;
            let name = name.to_lowercase();
            Some(name.strip_suffix(".json").unwrap_or(&name).to_owned())
        };
        let count = |calls: Vec<&RawValue>| {
            let mut counts = HashMap::new();
            calls.iter().filter_map(method).for_each(|method| *counts.entry(method).or_default() += 1);
            counts
        };
        Asked { calls: calls.map(count), all: fields.get("all").is_some_and(|raw| raw.get() == "true") }
    }
}

/// Judges what the same request with the same idempotency key did for a second time.
pub fn judge_repeated(sent: &Sent, first: &Verdict, second: &Verdict) -> Result<(), String> {
    let text = String::from_utf8_lossy(&first.body);
    let unknown = text.contains("\"executed\":\"unknown\"") || text.contains("OUTCOME_UNKNOWN");
    let succeeded = first.status == 200 && text.starts_with("{\"success\":true");
    let again: usize = second.executed.values().sum();
    match Asked::of(&sent.body).calls {
        // It goes on where it stopped.
        Some(calls) => {
            for (method, allowed) in calls {
                let count = |verdict: &Verdict| verdict.executed.get(&method).copied().unwrap_or(0);
                if count(first) + count(second) > allowed.max(1) {
                    return Err(format!("with one key {method} was executed {} times", count(first) + count(second)));
                }
            }
            Ok(())
        }
        None if (unknown || succeeded) && again > 0 => Err("with one key a call was executed again".into()),
        None => Ok(()),
    }
}

/// At the end of a world: no secret that was ever issued is in what was logged.
pub fn judge_logs(world: &World, logs: &str) -> Result<(), String> {
    let secrets = world.proxy.simulator.secrets();
    let shown = secrets.iter().find(|secret| !world.ever_posted.contains(secret) && logs.contains(secret.as_str()));
    shown.map_or(Ok(()), |secret| Err(format!("a secret is in the log: {secret}")))
}

/// Whether the request has a key that counts.
pub fn has_key(sent: &Sent) -> bool {
    let key = sent.variable("HTTP_IDEMPOTENCY_KEY");
    (1..=255).contains(&key.len()) && key.iter().all(|byte| (b' '..=b'~').contains(byte))
}
