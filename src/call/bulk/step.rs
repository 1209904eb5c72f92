//! A step of many calls: those that go to the portal in one request, decided on values alone.

use super::fate::{self, Fate};
use super::{command, Commands, MAX_COMMANDS};
use crate::call::idempotency::Journaled;
use crate::call::results::Piece;
use crate::values::connector;
use crate::values::error::{Error, Result};
use crate::values::json;
use crate::values::method::Method;
use crate::values::portal::Version;

/// One of the calls, as it was written: there may be a million of them.
#[derive(Clone, Copy)]
pub struct One<'a>(&'a str);

impl<'a> One<'a> {
    /// `{"method","params"?}`, of which both are known to be right.
    pub fn checked(raw: &'a str) -> One<'a> {
        One(raw)
    }

    pub fn method(&self) -> Method {
        let name = json::field(self.0, "method").and_then(|raw| serde_json::from_str::<String>(raw).ok());
        name.and_then(|name| Method::parse(&name)).expect("a call that was checked")
    }

    /// As written; an object or a list.
    pub fn raw_params(&self) -> &'a str {
        json::field(self.0, "params").unwrap_or("{}")
    }
}

/// What is asked for.
pub struct Asked<'a> {
    pub calls: &'a [One<'a>],
    pub halt: bool,
    /// `auth_connector` of calls that name none.
    pub connector: Option<&'a str>,
}

/// Calls that go to the portal in one request.
pub struct Step {
    pub calls: Vec<usize>,
    /// Of each: why it is not sent now.
    pub held: Vec<Option<Error>>,
    /// They were refused before, and keep their places.
    pub again: bool,
    /// `None`: all are held back.
    pub request: Option<Request>,
    pub query: String,
}

pub enum Request {
    Batch(Commands),
    /// The first of the calls.
    Single,
}

impl Step {
    /// The next step: as many calls as a batch takes, or one that must go on its own. `rest`: for how many seconds a method
    /// is not to be called.
    pub fn plan(asked: &Asked, version: Version, results: &Piece, mut rest: impl FnMut(&str) -> Option<u64>) -> Step {
        let pending = results.pending();
        let (again, last) = (!pending.is_empty(), asked.calls.len());
        let todo: Vec<usize> = match again {
            true => pending,
            false => (results.calls..last).take(MAX_COMMANDS).collect(),
        };
        let mut step = Step { calls: Vec::new(), held: Vec::new(), again, request: None, query: String::new() };
        let (mut commands, mut first) = (Commands::default(), None);
        for index in todo {
            let call = &asked.calls[index];
            let method = call.method().canonical();
            if let Some(retry_after) = rest(&method) {
                step.calls.push(index);
                step.held.push(Some(Error::MethodBlocked { retry_after }));
                if asked.halt {
                    break;
                }
                continue;
            }
            // Bitrix24 reads the connector of a whole batch, none of a command's.
            let own = connector::own(call.raw_params());
            let Some(connector) = connector::carried(own, asked.connector) else { break };
            if first.as_ref().is_some_and(|first| *first != connector) {
                break;
            }
            // A batch of REST 3.0 is all or nothing.
            let packed = match version {
                Version::V2 => command::of(&method, call.raw_params()),
                Version::V3 => None,
            };
            if !packed.is_some_and(|command| commands.push(&command)) {
                break;
            }
            step.calls.push(index);
            step.held.push(None);
            step.query = connector::query(connector.as_deref());
            first = Some(connector);
        }
        step.request = match (commands.count(), step.calls.is_empty()) {
            (0, true) => {
                let index = if again { results.pending()[0] } else { results.calls };
                step.calls.push(index);
                step.held.push(None);
                let own = connector::own(asked.calls[index].raw_params());
                step.query = if own.is_some() { String::new() } else { connector::query(asked.connector) };
                Some(Request::Single)
            }
            (0, false) => None,
            _ => Some(Request::Batch(commands)),
        };
        step
    }

    /// What became of each call, by what became of those that were sent, in their order.
    pub fn fates<'f>(&'f self, mut of_sent: impl FnMut(usize) -> Fate<'f> + 'f) -> impl Iterator<Item = Fate<'f>> {
        let mut sent = 0..;
        self.held.iter().map(move |held| match held {
            Some(why) => Fate::held_back(why),
            None => of_sent(sent.next().unwrap_or(0)),
        })
    }

    /// The longest of the rests of those that are held back.
    pub fn held_back(&self) -> Option<Error> {
        self.held.iter().flatten().max_by_key(|error| error.retry_after()).cloned()
    }

    /// Written down before it is sent.
    pub fn note(&self, journal: &mut Journaled) -> Result<()> {
        let of = |is_held: bool| {
            let calls = self.calls.iter().zip(&self.held).filter(move |(_, held)| held.is_some() == is_held);
            calls.map(|(call, _)| *call).collect::<Vec<usize>>()
        };
        match self.again {
            true => journal.sending_again(of(false)),
            false => {
                // What is held back behind the last that is sent is not spoken of.
                let sent = self.held.iter().rposition(Option::is_none).map_or(0, |last| last + 1);
                let held = of(true).into_iter().filter(|call| self.calls[..sent].contains(call)).collect();
                journal.sending(sent, held)
            }
        }
    }

    pub fn left<'f>(&self, fates: impl Iterator<Item = Fate<'f>>, halt: bool) -> Left {
        match self.again {
            true => Left::Pending(fate::of_pending(&self.calls, fates)),
            false => Left::Next(fate::of_next(fates, halt)),
        }
    }
}

/// The results of a step.
pub enum Left {
    Next(Piece),
    /// Of calls that were pending.
    Pending(Vec<(usize, Vec<u8>)>),
}

#[cfg(test)]
mod tests {
    use super::super::LONGEST_BATCH;
    use super::*;

    fn plan(calls: &[One], from: usize, connector: Option<&str>, resting: &[&str]) -> Step {
        let done = Piece::all_failed(from, "E", "", false);
        let asked = Asked { calls, halt: false, connector };
        Step::plan(&asked, Version::V2, &done, |method| resting.contains(&method).then_some(9))
    }

    #[test]
    fn calls_are_packed_by_fifty_and_those_that_would_not_survive_go_alone() {
        let raw =
            |i| if i == 55 { r#"{"method":"m","params":{"a":null}}"# } else { r#"{"params":{"a":1},"method":"m"}"# };
        let calls: Vec<One> = (0..60).map(|i| One::checked(raw(i))).collect();
        let counts: Vec<usize> = [0, 50, 55, 56].map(|from| plan(&calls, from, None, &[]).calls.len()).to_vec();
        assert_eq!(counts, [50, 5, 1, 4]);
    }

    #[test]
    fn long_calls_fill_a_batch_sooner() {
        let long = format!("{{\"method\":\"m\",\"params\":{{\"a\":\"{}\"}}}}", "x".repeat(LONGEST_BATCH / 3));
        let calls = [One::checked(&long); 5];
        assert_eq!(plan(&calls, 0, None, &[]).calls.len(), 2);
        let longer = format!("{{\"method\":\"m\",\"params\":{{\"a\":\"{}\"}}}}", "x".repeat(LONGEST_BATCH));
        assert!(matches!(plan(&[One::checked(&longer)], 0, None, &[]).request, Some(Request::Single)));
    }

    #[test]
    fn calls_of_a_method_that_rests_are_held_back_in_their_places() {
        let calls = [r#"{"method":"A"}"#, r#"{"method":"b"}"#, r#"{"method":"a"}"#].map(One::checked);
        let step = plan(&calls, 0, None, &["a"]);
        let held: Vec<bool> = step.held.iter().map(Option::is_some).collect();
        assert_eq!((step.calls.as_slice(), held.as_slice()), (&[0, 1, 2][..], &[true, false, true][..]));
        assert!(matches!(step.request, Some(Request::Batch(commands)) if commands.count() == 1));
        assert!(plan(&calls, 0, None, &["a", "b"]).request.is_none());
    }

    #[test]
    fn a_batch_has_one_connector_and_a_calls_own_counts_first() {
        let own = r#"{"method":"m","params":{"auth_connector":"mine"}}"#;
        let odd = r#"{"method":"m","params":{"auth_connector":7}}"#;
        let calls = [r#"{"method":"m"}"#, r#"{"method":"m"}"#, own, own, odd].map(One::checked);
        let planned = |from, connector| {
            let step = plan(&calls, from, connector, &[]);
            (step.calls.len(), step.query)
        };
        assert_eq!(planned(0, Some("1c")), (2, "auth_connector=1c".into()));
        assert_eq!(planned(0, None), (2, String::new()));
        assert_eq!(planned(2, Some("1c")), (2, "auth_connector=mine".into()));
        assert_eq!(planned(2, None), (2, "auth_connector=mine".into()));
        assert_eq!(planned(4, Some("1c")), (1, String::new()));
    }
}
