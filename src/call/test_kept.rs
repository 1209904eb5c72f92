//! Calls of a process that serves many requests, whose kept connection was closed by the portal.

use super::outcome::{Called, Failed};
use super::payload::{Parameters, Payload};
use super::relay::{call, Call, Patience};
use crate::app::App;
use crate::config::Config;
use crate::system::clock::Deadline;
use crate::upstream::test_server::{Act, End, Server};
use crate::values::error::Executed;
use crate::values::method::Method;
use crate::values::portal::Version;
use std::path::PathBuf;
use std::time::Duration;

struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A resident program with this server as its one portal.
fn resident(server: &Server, reuse: &str) -> (App, Temporary) {
    let folder = std::env::temp_dir().join(format!("b24proxy-kept-{}", crate::values::secret::random_hex::<8>()));
    let text = format!(
        "[bitrix24]\nallow_http = true\n[portals.\"{}\"]\nwebhook = \"{}\"\n[fastcgi]\nreuse = \"{reuse}\"\n\
         [storage]\npath = {folder:?}\n",
        server.address,
        server.url()
    );
    (App::resident(Config::parse(&text, &folder.join("proxy.toml")).unwrap()), Temporary(folder))
}

fn called(app: &App, method: &str) -> Called {
    let log = app.log("id".into(), Box::new(|_| {}));
    let end = Deadline::after(Duration::from_secs(10));
    let method = Method::parse(method).unwrap();
    let made = Call {
        version: Version::V2,
        method: &method,
        query: "",
        payload: Payload::Json(Parameters::of_inside(String::new())),
        headers: Vec::new(),
        max_response: 1000,
        counts: 1,
    };
    call(app.job(&log, end), &app.config.portals[0], &made, Patience::Until(end), None)
}

fn executed(called: &Called) -> Option<Executed> {
    called.result.as_ref().err().and_then(Failed::executed)
}

/// The first request of the first connection is answered; each later one there is lost.
fn lost(connection: usize, number: usize) -> Act {
    match (connection, number) {
        (0, 1) => Act::SaysThen("", End::Fin),
        _ => Act::Answer,
    }
}

#[test]
fn a_method_that_only_reads_is_repeated_once_by_a_new_connection() {
    for method in ["crm.deal.list", "user.get.json", "CRM.Deal.Fields"] {
        let server = Server::plain(lost);
        let (app, _folder) = resident(&server, "always");
        assert!(called(&app, "crm.deal.add").result.is_ok());
        let again = called(&app, method);
        assert!(again.result.is_ok(), "{method}");
        assert_eq!(again.trip.repeated, ["connection_closed"]);
        assert_eq!(server.connections(), [0, 0, 1]);
        assert!(server.seen()[2].head.contains("\nconnection: close"), "{}", server.seen()[2].head);
    }
}

#[test]
fn whatever_may_change_something_is_never_repeated() {
    for method in ["crm.deal.add", "batch", "batch.json", "event.offline.get", "profile"] {
        let server = Server::plain(lost);
        let (app, _folder) = resident(&server, "always");
        assert!(called(&app, "crm.deal.list").result.is_ok());
        let ended = called(&app, method);
        assert_eq!(executed(&ended), Some(Executed::Unknown), "{method}");
        assert!(ended.trip.repeated.is_empty(), "{method}");
        assert_eq!(server.connections(), [0, 0]);
    }
}

#[test]
fn a_read_that_is_lost_again_or_in_the_middle_of_its_answer_is_not_repeated() {
    let server = Server::plain(|_, number| if number == 0 { Act::Answer } else { Act::SaysThen("", End::Fin) });
    let (app, _folder) = resident(&server, "always");
    assert!(called(&app, "crm.deal.list").result.is_ok());
    // Answered by a new connection, once more, and nothing after that.
    assert!(called(&app, "crm.deal.list").result.is_ok());
    let server = Server::plain(|connection, number| match (connection, number) {
        (0, 0) => Act::Answer,
        _ => Act::SaysThen("", End::Fin),
    });
    let (app, _folder) = resident(&server, "always");
    assert!(called(&app, "crm.deal.list").result.is_ok());
    let twice = called(&app, "crm.deal.list");
    assert_eq!(executed(&twice), Some(Executed::Unknown));
    assert_eq!(twice.trip.repeated, ["connection_closed"]);
    assert_eq!(server.connections(), [0, 0, 1]);
    let server = Server::plain(|_, number| match number {
        0 => Act::Answer,
        _ => Act::SaysThen("HTTP/1.1 200 OK\r\n", End::Fin),
    });
    let (app, _folder) = resident(&server, "always");
    assert!(called(&app, "crm.deal.list").result.is_ok());
    let cut = called(&app, "crm.deal.list");
    assert_eq!(executed(&cut), Some(Executed::Unknown));
    assert!(cut.trip.repeated.is_empty());
    assert_eq!(server.connections(), [0, 0]);
}

#[test]
fn reuse_says_which_calls_use_a_kept_connection() {
    for (reuse, expected) in [("always", [0, 0, 0, 0]), ("reads", [0, 1, 0, 2]), ("never", [0, 1, 2, 3])] {
        let server = Server::plain(|_, _| Act::Answer);
        let (app, _folder) = resident(&server, reuse);
        for method in ["crm.deal.list", "crm.deal.add", "user.get", "batch"] {
            assert!(called(&app, method).result.is_ok(), "{reuse} {method}");
        }
        assert_eq!(server.connections(), expected, "{reuse}");
    }
}
