//! Contract sections 5 and 9 on a database: at each statement of a refresh and of a key's life the connection is cut, the
//! database goes away, or is killed, or the process that asks is. No token is lost, none spent twice, no call executed twice,
//! and no answer false.
//!
//! Without `B24PROXY_FULL`, each way to fail is tried at some of the statements, others for each way.

use crate::bench::{is_full, Count};
use crate::fixture::*;
use crate::nodes::{on_each_kind, once_it_is_known, Nodes, KEY};
use serde_json::{json, Value};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::cgi::Cgi;
use support::database::{shared, Kind, Server};
use support::relay::Moment;
use support::signal;

/// What happens at a statement.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blow {
    /// Its connection is cut; the next one is not.
    Cut,
    /// The database is away, until the request is answered.
    Away,
    /// And until the refresher has given up as well.
    AwayForLong,
    /// The way to it is silent, until another node knows what became of the key.
    Silent,
    /// The process that asks is killed.
    Process,
    /// The server is killed, and started again when the request has been answered.
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Started {
    Cgi,
    FastCgi,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Request {
    /// One call, with an expired pair.
    One,
    /// So many that there are several pieces, with a valid pair.
    Many,
}

const MANY: usize = 60;

#[derive(Clone, Copy, Debug)]
struct Point {
    request: Request,
    started: Started,
    blow: Blow,
    moment: Moment,
    nth: usize,
}

impl Request {
    fn body(self) -> String {
        let add = |title: usize| json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": title}}});
        match self {
            Request::One => add(0).to_string(),
            Request::Many => json!({ "calls": (0..MANY).map(add).collect::<Vec<_>>() }).to_string(),
        }
    }

    fn on<'n>(self, node: &'n support::Sandbox, started: Started) -> Cgi<'n> {
        let request = Cgi::new(node).method("POST").json(self.body()).bearer(TOKEN).header("Idempotency-Key", KEY);
        match started {
            Started::Cgi => request.as_cgi(),
            Started::FastCgi => request.as_resident(),
        }
    }
}

/// A failure by which the caller knows that nothing was executed.
fn says_no(status: u16, body: &Value) -> bool {
    let said = (status, body["error_code"].as_str().unwrap_or_default());
    // A host on which everything is tested at once may have no thread left for it.
    let known = [(500, "storage_error"), (503, "refresh_pending"), (503, "idempotency_key_in_use"), (503, "host_busy")];
    known.contains(&said) && body["executed"] == "no"
}

/// Good results and unknown ones.
fn results(request: Request, status: u16, body: &Value) -> (usize, usize) {
    let results = match request {
        Request::One => return (usize::from(status == 200), usize::from(status != 200)),
        Request::Many if status == 200 => body["data"]["results"].as_array().expect("results"),
        Request::Many => return (0, MANY),
    };
    let unknown = results.iter().filter(|result| result["error"] == "OUTCOME_UNKNOWN").count();
    let good = results.iter().filter(|result| result["result"].is_number()).count();
    (good, unknown)
}

/// What became of a request: the status, good results, and unknown ones.
type Said = (u16, usize, usize);

impl Point {
    fn strike(self, nodes: &Nodes, tally: &Tally) {
        let Point { request, started, blow, moment, nth } = self;
        nodes.prepare(request == Request::One);
        let server = nodes.server;
        match blow {
            // What was asked is passed on much later.
            Blow::Silent => nodes.relay.strike_and_go_on(nth, moment, |line| line.silence()),
            _ => nodes.relay.strike(nth, moment, move |line, process| match blow {
                Blow::Cut | Blow::Silent => {}
                Blow::Away | Blow::AwayForLong => line.away(),
                Blow::Process => signal(process, "KILL"),
                Blow::Server => server.kill(),
            }),
        }
        let body = request.body();
        let mut running = request.on(nodes.one(), started).content_length(Some(body.len())).spawn();
        let _ = running.write(body.as_bytes());
        running.end_body();
        let answer = running.wait_unless_killed();
        let stderr = answer.as_ref().map_or("", |answer| &answer.stderr);
        let first = answer.as_ref().map(|answer| (answer.status, answer.json()));
        if !nodes.relay.has_struck() {
            return nodes.relay.count();
        }
        let what = format!("{self:?}: {first:?} {stderr}");
        if blow == Blow::Server {
            server.resume();
        }
        let (executed, begun) = (nodes.executed(), nodes.entries_of_key());
        assert!(executed == 0 || begun > 0, "{what}: it was sent before that was written down");
        self.judge_first(first.as_ref(), executed, &what);
        let said = (blow == Blow::Silent).then(|| self.ask_other(nodes, &what)).flatten();
        if blow == Blow::AwayForLong {
            nodes.settle();
            tally.waits.add(nodes.waits());
        }
        nodes.relay.line().heal();
        nodes.settle();
        let (status, ..) = self.judge(nodes, executed, begun, said, &what);
        tally.struck.add(true);
        tally.refused.add(first.as_ref().is_some_and(|(status, _)| *status == 500));
        tally.unknown.add(status == 409);
        tally.answered.add(first.is_some_and(|(status, _)| status == 200));
    }

    /// What the caller was told is true.
    fn judge_first(self, first: Option<&(u16, Value)>, executed: usize, what: &str) {
        let Some((status, body)) = first else { return assert_eq!(self.blow, Blow::Process, "{what}") };
        let (good, unknown) = results(self.request, *status, body);
        match status {
            200 => assert!((good..=good + unknown).contains(&executed), "{what}: {executed} were executed"),
            _ => assert!(says_no(*status, body) && executed == 0, "{what}: {executed} were executed"),
        }
    }

    /// While the way of the one is silent: what the other one comes to know, unless the new pair is not known to it.
    fn ask_other(self, nodes: &Nodes, what: &str) -> Option<Said> {
        let answer = once_it_is_known(&self.request.on(nodes.other(), self.started));
        let body = answer.json();
        if body["error_code"] == "reinstall_required" {
            return None;
        }
        let (good, unknown) = results(self.request, answer.status, &body);
        assert!([200, 409].contains(&answer.status), "{what}, then {}", answer.text());
        Some((answer.status, good, unknown))
    }

    /// Everything is well again. `said`: what a node has said of the key already.
    fn judge(self, nodes: &Nodes, executed: usize, begun: usize, mut said: Option<Said>, what: &str) -> Said {
        let Point { request, started, blow, .. } = self;
        // Whoever was killed, or could not say so, has given up the key.
        nodes.database().sql("UPDATE b24proxy_keys SET lease_until = 1");
        for node in [nodes.one(), nodes.other()] {
            let answer = once_it_is_known(&request.on(node, started));
            let (status, body) = (answer.status, answer.json());
            let (good, unknown) = results(request, status, &body);
            let now = nodes.executed();
            let what = format!("{what}, then {} {}", answer.text(), answer.stderr);
            match status {
                200 => assert!((good..=good + unknown).contains(&now), "{what}: {now} were executed"),
                _ => assert_failure(&answer, 409, "outcome_unknown"),
            }
            assert_eq!(good + unknown, if request == Request::One { 1 } else { MANY }, "{what}");
            assert!(begun > 0 || unknown == 0, "{what}: nothing was sent");
            if request == Request::One {
                assert!(status == 200 || now == executed, "{what}: not executed again");
                assert!(status == 200 || begun < 2, "{what}: its answer was kept");
            }
            // Whatever one node says, the other says as well.
            assert!(said.is_none_or(|said| said == (status, good, unknown)), "{what}: {said:?} before");
            said = Some((status, good, unknown));
        }

        let before = nodes.executed();
        nodes.assert_works(nodes.other(), what);
        nodes.assert_works(nodes.one(), what);
        assert_eq!(nodes.executed(), before + 2, "{what}");
        let ledger = nodes.proxy.simulator.ledger();
        let (refreshes, spent) = (ledger.refreshes(), ledger.spent_presented());
        match blow {
            // The old one is tried once by the node that cannot know of the new one.
            Blow::Silent => assert!(refreshes <= 1 + spent && spent <= 1, "{what}: {refreshes} {spent}"),
            _ => assert_eq!((refreshes, spent), (usize::from(request == Request::One), 0), "{what}"),
        }
        nodes.assert_tidy(what);
        said.expect("both were asked")
    }
}

/// How much of what could happen did.
#[derive(Default)]
struct Tally {
    struck: Count,
    /// Answered by 200 all the same; refused before anything was sent.
    answered: Count,
    refused: Count,
    unknown: Count,
    /// A new pair waited on its node.
    waits: Count,
}

/// How much a whole request asks.
fn length(nodes: &Nodes, request: Request, started: Started) -> usize {
    nodes.prepare(request == Request::One);
    nodes.relay.count();
    let answer = request.on(nodes.one(), started).run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    nodes.settle();
    nodes.relay.asked()
}

/// `every`: of so many statements one is taken, without `B24PROXY_FULL`.
fn at_each(server: impl Fn() -> &'static Server + Sync, blows: &[Blow], every: usize, workers: usize) -> Tally {
    let first = Nodes::new(server());
    let mut points = Vec::new();
    let every = if is_full() { 1 } else { every };
    let mut way = 0;
    for (request, started) in
        [(Request::One, Started::Cgi), (Request::Many, Started::Cgi), (Request::One, Started::FastCgi)]
    {
        let most = length(&first, request, started);
        for blow in blows {
            for moment in [Moment::Before, Moment::After] {
                way += 1;
                let taken = (1 + way * 5 % every..=most).step_by(every);
                points.extend(taken.map(|nth| Point { request, started, blow: *blow, moment, nth }));
            }
        }
    }
    let (next, tally) = (AtomicUsize::new(0), Tally::default());
    std::thread::scope(|scope| {
        let mut first = Some(first);
        for _ in 0..workers {
            let (nodes, points, server, next, tally) = (first.take(), &points, &server, &next, &tally);
            scope.spawn(move || {
                let nodes = nodes.unwrap_or_else(|| Nodes::new(server()));
                while let Some(point) = points.get(next.fetch_add(1, Ordering::SeqCst)) {
                    point.strike(&nodes, tally);
                }
            });
        }
    });
    let struck = tally.struck.get();
    // How many a request makes differs a little.
    let least = if is_full() { 8 } else { 5 };
    assert!(struck * 10 > points.len() * least, "{struck} of {} statements were reached", points.len());
    let (answered, refused) = (tally.answered.get(), tally.refused.get());
    println!("{struck} of {} statements were reached: {answered} answered, {refused} refused", points.len());
    // Of a few statements perhaps none is one whose loss is refused, or none is answered.
    assert!(!is_full() || (answered > 0 && refused > 0), "both are seen");
    tally
}

fn own(kind: Kind) -> &'static Server {
    Box::leak(Box::new(Server::start(kind)))
}

fn cut(kind: Kind) {
    let tally = at_each(|| shared(kind), &[Blow::Cut, Blow::Away, Blow::AwayForLong, Blow::Process], 31, 3);
    assert!(!is_full() || (tally.unknown.get() > 0 && tally.waits.get() > 0), "they are seen");
}

fn killed(kind: Kind) {
    let tally = at_each(|| own(kind), &[Blow::Server], 23, 2);
    assert!(!is_full() || tally.unknown.get() > 0, "it is seen");
}

fn silent(kind: Kind) {
    let tally = at_each(|| shared(kind), &[Blow::Silent], 19, 4);
    assert!(!is_full() || tally.unknown.get() > 0, "it is seen");
}

#[test]
fn at_whatever_statement_the_database_or_the_process_is_lost_nothing_else_is_and_nothing_is_done_twice() {
    on_each_kind(cut);
}

#[test]
fn at_whatever_statement_the_server_is_killed_nothing_is_lost_and_nothing_done_twice() {
    on_each_kind(killed);
}

#[test]
fn at_whatever_statement_the_way_to_the_database_falls_silent_nothing_is_lost_and_nothing_done_twice() {
    on_each_kind(silent);
}
