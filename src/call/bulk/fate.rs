//! What became of calls that went to the portal together, and what that leaves to be done: decided on values alone.

use super::BatchAnswer;
use crate::call::limits::OPERATING_LIMIT;
use crate::call::results::{write_error, write_result, write_unknown, Piece};
use crate::values::error::{Error, Upstream};
use crate::values::verdict::Operating;
use std::borrow::Cow;
use std::collections::HashMap;

/// What became of one call.
#[derive(Clone, Debug)]
pub enum Fate<'a> {
    /// The values are JSON, as Bitrix24 wrote them.
    Result { result: &'a str, total: Option<&'a str>, next: Option<&'a str> },
    /// An error that is its result.
    Error { error: Cow<'a, str>, description: Cow<'a, str> },
    /// It may have been executed: the answer was lost.
    Lost(&'a str),
    /// It was not executed, and Bitrix24 may accept it later.
    Refused { error: Cow<'a, str>, description: Cow<'a, str> },
}

impl<'a> Fate<'a> {
    /// Of the command of this name.
    pub fn in_batch(answer: &BatchAnswer<'a>, name: &str) -> Fate<'a> {
        if let Some(raw) = answer.errors.get(name) {
            return Fate::refused(super::error_of(raw));
        }
        let member = |of: &HashMap<String, &'a str>| of.get(name).copied();
        match member(&answer.results) {
            Some(result) => Fate::Result { result, total: member(&answer.totals), next: member(&answer.nexts) },
            None => Fate::Error {
                error: "OUTCOME_UNKNOWN".into(),
                description: "Bitrix24's answer does not mention this call.".into(),
            },
        }
    }

    /// Of a call that Bitrix24 answered with this error.
    pub fn refused(upstream: Upstream) -> Fate<'static> {
        let passing = upstream.passing();
        let (error, description) = (upstream.error.into(), upstream.error_description.into());
        match passing {
            Some(_) => Fate::Refused { error, description },
            None => Fate::Error { error, description },
        }
    }

    /// Of a call that was not sent, as Bitrix24 would have refused it.
    pub fn held_back(why: &Error) -> Fate<'static> {
        Fate::Refused { error: "OPERATION_TIME_LIMIT".into(), description: why.text().into() }
    }

    fn is_refused(&self) -> bool {
        matches!(self, Fate::Refused { .. })
    }

    /// Its entry among the results, if it has one.
    fn write(&self, text: &mut Vec<u8>) {
        match self {
            Fate::Result { result, total, next } => write_result(text, result, *total, *next),
            Fate::Error { error, description } => write_error(text, error, description),
            Fate::Lost(description) => write_unknown(text, description),
            Fate::Refused { .. } => {}
        }
    }
}

/// The results of the next calls: up to the last one that has any. Those that were refused before it keep their place.
pub fn of_next<'a>(fates: impl IntoIterator<Item = Fate<'a>>, halt: bool) -> Piece {
    let (mut piece, mut refused) = (Piece::default(), Vec::new());
    for fate in fates {
        if fate.is_refused() {
            if halt {
                break;
            }
            refused.push(fate);
            continue;
        }
        for before in refused.drain(..) {
            if let Fate::Refused { error, description } = before {
                piece.push_refused(&error, &description);
            }
        }
        piece.push(|text| fate.write(text));
        piece.halted = halt && !matches!(fate, Fate::Result { .. });
        if piece.halted && matches!(fate, Fate::Error { .. }) {
            break;
        }
    }
    piece
}

/// The results of calls that were pending, as far as they have any now.
pub fn of_pending<'a>(calls: &[usize], fates: impl IntoIterator<Item = Fate<'a>>) -> Vec<(usize, Vec<u8>)> {
    let done = calls.iter().zip(fates).filter(|(_, fate)| !fate.is_refused());
    let entry = |fate: Fate| {
        let mut text = Vec::new();
        fate.write(&mut text);
        text
    };
    done.map(|(call, fate)| (*call, entry(fate))).collect()
}

/// How near a method is to having used up its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wall {
    Far,
    /// Another batch like this one would pass it. Unix seconds: when time frees.
    Near(i64),
    /// It is refused from now on, until then.
    Reached(i64),
}

/// By what the answers of one method's commands in a batch say is used, each of all that was used until it.
pub fn wall(times: &[Operating]) -> Wall {
    let used = |time: &Operating| time.operating;
    let most = times.iter().map(used).fold(0.0, f64::max);
    let least = times.iter().map(used).fold(f64::INFINITY, f64::min);
    let until = times.iter().map(|time| time.operating_reset_at).max().unwrap_or(0);
    match most {
        most if most >= OPERATING_LIMIT => Wall::Reached(until),
        most if most + (most - least) >= OPERATING_LIMIT => Wall::Near(until),
        _ => Wall::Far,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(piece: &Piece) -> serde_json::Value {
        serde_json::from_slice(&[b"[", piece.text.as_slice(), b"]"].concat()).unwrap()
    }

    /// `r` a result, `e` an error, `l` lost, `x` refused.
    fn fates(letters: &str) -> Vec<Fate<'static>> {
        let fate = |letter| match letter {
            'r' => Fate::Result { result: "1", total: None, next: None },
            'e' => Fate::Error { error: "E".into(), description: "e".into() },
            'l' => Fate::Lost("l"),
            _ => Fate::Refused { error: "OPERATION_TIME_LIMIT".into(), description: "x".into() },
        };
        letters.chars().map(fate).collect()
    }

    fn left(letters: &str, halt: bool) -> (usize, usize, Vec<usize>, bool) {
        let piece = of_next(fates(letters), halt);
        assert_eq!(entries(&piece).as_array().map(Vec::len), Some(piece.calls));
        (piece.calls, piece.errors, piece.pending(), piece.halted)
    }

    #[test]
    fn refused_calls_behind_the_last_executed_one_have_no_entry_and_those_before_keep_their_place() {
        assert_eq!(left("rrr", false), (3, 0, vec![], false));
        assert_eq!(left("rrxxx", false), (2, 0, vec![], false));
        assert_eq!(left("xxx", false), (0, 0, vec![], false));
        assert_eq!(left("xrxxex", false), (5, 4, vec![0, 2, 3], false));
        assert_eq!(left("xl", false), (2, 2, vec![0], false));
        let refused = &entries(&of_next(fates("xr"), false))[0];
        let expected = serde_json::json!({"error": "OPERATION_TIME_LIMIT", "error_description": "x", "executed": "no"});
        assert_eq!(*refused, expected);
    }

    #[test]
    fn with_halt_an_error_or_a_lost_answer_halts_and_a_refusal_only_ends() {
        assert_eq!(left("rrerr", true), (3, 1, vec![], true));
        assert_eq!(left("rrxrr", true), (2, 0, vec![], false));
        assert_eq!(left("lll", true), (3, 3, vec![], true));
        assert_eq!(left("rr", true), (2, 0, vec![], false));
    }

    #[test]
    fn calls_that_were_pending_stay_so_where_they_are_refused_again() {
        let done = of_pending(&[3, 5, 9], fates("xrx"));
        assert_eq!(done, [(5, b"{\"result\":1}".to_vec())]);
        assert_eq!(of_pending(&[3], fates("x")), []);
    }

    #[test]
    fn a_command_s_refusal_is_told_from_its_errors() {
        let body = br#"{"result":{"result":{"c0":1},"result_error":{"c1":{"error":"OPERATION_TIME_LIMIT"},
            "c2":{"error":"QUERY_LIMIT_EXCEEDED"},"c3":{"error":"OVERLOAD_LIMIT"},"c4":{"error":"ERROR_CORE"}}}}"#;
        let answer = BatchAnswer::parse(body).unwrap();
        let refused = |name| matches!(Fate::in_batch(&answer, name), Fate::Refused { .. });
        assert_eq!(["c0", "c1", "c2", "c3", "c4", "c5"].map(refused), [false, true, true, true, false, false]);
    }

    #[test]
    fn the_wall_is_near_where_another_batch_like_the_last_would_pass_it() {
        let used = |from: f64, to: f64| {
            let times = [from, to].map(|operating| Operating { operating, operating_reset_at: 7 });
            wall(&times)
        };
        assert_eq!(wall(&[]), Wall::Far);
        assert_eq!(used(0.3, 16.0), Wall::Far);
        assert_eq!(used(440.0, 459.9), Wall::Far);
        assert_eq!(used(440.0, 460.0), Wall::Near(7));
        assert_eq!(used(479.0, 479.9), Wall::Near(7));
        assert_eq!(used(300.0, 480.0), Wall::Reached(7));
    }

    proptest! {
        #[test]
        fn every_call_is_done_pending_or_next(letters in "[relx]{0,50}") {
            let (calls, errors, pending, _) = left(&letters, false);
            let bytes = letters.as_bytes();
            prop_assert_eq!(calls, letters.rfind(|letter| letter != 'x').map_or(0, |last| last + 1));
            prop_assert_eq!(&pending, &(0..calls).filter(|i| bytes[*i] == b'x').collect::<Vec<_>>());
            prop_assert_eq!(errors, bytes[..calls].iter().filter(|letter| **letter != b'r').count());
        }
    }
}
