//! The results of many calls, as they are answered and as an idempotency key keeps them.

use crate::values::json;

const ERROR: &[u8] = b"{\"error\":";

/// Some of the results, as text between commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub text: Vec<u8>,
    pub calls: usize,
    pub errors: usize,
    /// `halt`, and there was an error.
    pub halted: bool,
    /// Entries of calls that were refused for now, and that keep their place for a result; in order.
    pending: Vec<Pending>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    /// Its index among the results.
    call: usize,
    /// Where its entry stands in the text.
    at: usize,
    length: usize,
}

impl Piece {
    /// The same error for each of `count` calls; with `halt` for the first.
    pub fn all_failed(count: usize, error: &str, description: &str, halt: bool) -> Piece {
        let mut piece = Piece::default();
        for _ in 0..if halt { 1 } else { count } {
            piece.push(|text| write_error(text, error, description));
        }
        piece.halted = halt;
        piece
    }

    pub fn with_halted(self, halted: bool) -> Piece {
        Piece { halted, ..self }
    }

    /// From a text of so many results, of which these indexes are pending.
    pub fn of_text(text: Vec<u8>, calls: usize, errors: usize, halted: bool, pending: &[usize]) -> Piece {
        let whole = Piece { text, calls, errors, halted, pending: Vec::new() };
        if pending.is_empty() {
            return whole;
        }
        let mut piece = Piece::default();
        let list = format!("[{}]", String::from_utf8_lossy(&whole.text));
        for (i, entry) in json::elements(&list).map_while(Result::ok).enumerate() {
            match pending.contains(&i) {
                true => piece.push_pending(|text| text.extend(entry.as_bytes())),
                false => piece.push(|text| text.extend(entry.as_bytes())),
            }
        }
        Piece { halted, ..piece }
    }

    pub fn append(&mut self, mut piece: Piece) {
        let (calls, at) = (self.calls, self.text.len() + usize::from(self.calls > 0));
        let moved = |Pending { call, at: was, length }| Pending { call: calls + call, at: at + was, length };
        self.pending.extend(piece.pending.into_iter().map(moved));
        if self.calls == 0 {
            std::mem::swap(&mut self.text, &mut piece.text);
        } else if piece.calls > 0 {
            self.text.push(b',');
            self.text.append(&mut piece.text);
        }
        self.calls += piece.calls;
        self.errors += piece.errors;
        self.halted |= piece.halted;
    }

    /// An entry as one of the functions below writes it: straight into the text, for a result may be as large as memory allows.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.calls > 0 {
            self.text.push(b',');
        }
        let at = self.text.len();
        write(&mut self.text);
        self.errors += usize::from(is_error(&self.text[at..]));
        self.calls += 1;
    }

    /// The entry of a call that was refused for now.
    pub fn push_refused(&mut self, error: &str, description: &str) {
        self.push_pending(|text| {
            write_error(text, error, description);
            text.pop();
            text.extend(b",\"executed\":\"no\"}");
        });
    }

    fn push_pending(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let (call, at) = (self.calls, self.text.len() + usize::from(self.calls > 0));
        self.push(write);
        self.pending.push(Pending { call, at, length: self.text.len() - at });
    }

    /// The indexes of calls that keep their place and are still to be executed.
    pub fn pending(&self) -> Vec<usize> {
        self.pending.iter().map(|pending| pending.call).collect()
    }

    /// How many results stand before the first that is pending.
    pub fn settled(&self) -> usize {
        self.pending.first().map_or(self.calls, |pending| pending.call)
    }

    /// Puts entries in the places of pending calls.
    pub fn fill(&mut self, entries: Vec<(usize, Vec<u8>)>) {
        for (call, entry) in entries {
            let Some(i) = self.pending.iter().position(|pending| pending.call == call) else { continue };
            let Pending { at, length, .. } = self.pending.remove(i);
            self.pending[i..].iter_mut().for_each(|behind| behind.at = behind.at + entry.len() - length);
            self.errors -= usize::from(!is_error(&entry));
            self.text.splice(at..at + length, entry);
        }
    }
}

fn is_error(entry: &[u8]) -> bool {
    entry.starts_with(ERROR)
}

/// The values are JSON, as Bitrix24 wrote them.
pub fn write_result(text: &mut Vec<u8>, result: &str, total: Option<&str>, next: Option<&str>) {
    let member = |name, value: Option<&str>| value.map(|value| format!(",\"{name}\":{value}")).unwrap_or_default();
    for part in ["{\"result\":", result, &member("total", total), &member("next", next), "}"] {
        text.extend(part.as_bytes());
    }
}

pub fn write_error(text: &mut Vec<u8>, error: &str, description: &str) {
    text.extend(ERROR);
    text.extend(json::quoted(error).as_bytes());
    text.extend(b",\"error_description\":");
    text.reserve(json::quoted_length(description) + 1);
    serde_json::to_writer(&mut *text, description).expect("a string serializes");
    text.push(b'}');
}

/// Of a call whose answer was lost.
pub fn write_unknown(text: &mut Vec<u8>, description: &str) {
    write_error(text, "OUTCOME_UNKNOWN", description);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(i: usize) -> Vec<u8> {
        format!("{{\"result\":{i}}}").into_bytes()
    }

    fn text(piece: &Piece) -> String {
        String::from_utf8(piece.text.clone()).unwrap()
    }

    /// Results 0 to 5, of which 1 and 4 are pending.
    fn with_pending() -> Piece {
        let mut all = Piece::default();
        for _ in 0..2 {
            let mut piece = Piece::default();
            piece.push(|text| write_result(text, "7", None, None));
            piece.push_refused("X", "y");
            piece.push(|text| write_result(text, "8", None, None));
            all.append(piece);
        }
        all
    }

    #[test]
    fn refused_calls_keep_their_place_for_a_result() {
        let mut piece = with_pending();
        assert_eq!((piece.pending(), piece.errors, piece.calls, piece.settled()), (vec![1, 4], 2, 6, 1));
        piece.fill(vec![(1, result(123_456)), (2, result(9))]);
        assert_eq!((piece.pending(), piece.errors, piece.settled()), (vec![4], 1, 4));
        let mut error = Vec::new();
        write_error(&mut error, "E", "");
        piece.fill(vec![(4, error)]);
        assert_eq!((piece.pending(), piece.errors, piece.settled()), (vec![], 1, 6));
        let (seven, eight) = ("{\"result\":7}", "{\"result\":8}");
        let error = "{\"error\":\"E\",\"error_description\":\"\"}";
        assert_eq!(text(&piece), format!("{seven},{{\"result\":123456}},{eight},{seven},{error},{eight}"));
    }

    #[test]
    fn what_was_kept_is_read_with_its_places() {
        let piece = with_pending();
        assert_eq!(Piece::of_text(piece.text.clone(), 6, 2, false, &[1, 4]), piece);
        let entry = "{\"error\":\"X\",\"error_description\":\"y\",\"executed\":\"no\"}";
        assert!(text(&piece).starts_with(&format!("{{\"result\":7}},{entry},")), "{}", text(&piece));
    }
}
