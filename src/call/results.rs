//! The results of many calls, as they are answered and as an idempotency key keeps them.

use crate::values::json;

/// Some of the results, as text between commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub text: Vec<u8>,
    pub calls: usize,
    pub errors: usize,
    /// `halt`, and there was an error.
    pub halted: bool,
}

impl Piece {
    /// The same error for each of `count` calls; with `halt` for the first.
    pub fn all_failed(count: usize, error: &str, description: &str, halt: bool) -> Piece {
        let mut piece = Piece::default();
        for _ in 0..if halt { 1 } else { count } {
            piece.push_error(error, description);
        }
        piece.halted = halt;
        piece
    }

    /// The results of calls whose answer was lost.
    pub fn lost(count: usize, description: &str) -> Piece {
        Piece::all_failed(count, "OUTCOME_UNKNOWN", description, false)
    }

    pub fn append(&mut self, mut piece: Piece) {
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

    /// The values are JSON, as Bitrix24 wrote them.
    pub fn push_result(&mut self, result: &str, total: Option<&str>, next: Option<&str>) {
        let member = |name, value: Option<&str>| value.map(|value| format!(",\"{name}\":{value}")).unwrap_or_default();
        self.push(&["{\"result\":", result, &member("total", total), &member("next", next), "}"]);
    }

    pub fn push_error(&mut self, error: &str, description: &str) {
        self.errors += 1;
        self.push(&["{\"error\":", &json::quoted(error), ",\"error_description\":"]);
        self.text.reserve(json::quoted_length(description) + 1);
        serde_json::to_writer(&mut self.text, description).expect("a string serializes");
        self.text.push(b'}');
    }

    /// In parts, because a result may be as large as memory allows.
    fn push(&mut self, item: &[&str]) {
        if self.calls > 0 {
            self.text.push(b',');
        }
        item.iter().for_each(|part| self.text.extend(part.as_bytes()));
        self.calls += 1;
    }
}
