//! What is around the module: the platform's age, its clock, the network.

use super::value::Value;
use std::path::PathBuf;

/// How a background job can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// `ОжидатьЗавершенияВыполнения`, which returns when the time is over.
    Since8_3_13,
    /// `ОжидатьЗавершения`, which then raises.
    Before8_3_13,
    /// It returns at once.
    NotAtAll,
    /// Jobs may not be started.
    Forbidden,
}

/// A request as it goes out.
#[derive(Clone, Debug)]
pub struct Sent {
    pub verb: &'static str,
    pub address: String,
    /// Behind the host.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub timeout: f64,
}

impl Sent {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[derive(Clone, Debug)]
pub struct Received {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn json(status: u16, body: impl ToString) -> Received {
        let headers = vec![("X-Request-Id".to_owned(), "r1".to_owned())];
        Received { status, headers, body: body.to_string().into_bytes() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Received {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// `Err`: no answer, and why.
type Network<'w> = Box<dyn FnMut(&Sent) -> Result<Received, String> + 'w>;

pub struct World<'w> {
    pub network: Network<'w>,
    pub waiting: Waiting,
    /// The platform's reader takes the end of the text for the end of what is open.
    pub lenient_reader: bool,
    pub in_transaction: bool,
    /// Of the session, from UTC.
    pub zone: i64,
    /// Milliseconds since the year 1, UTC; moves when something waits.
    pub clock: f64,
    /// Seconds, each time that something waited.
    pub waits: Vec<f64>,
    /// Of the event log: event, level, comment.
    pub log: Vec<[String; 3]>,
    pub messages: Vec<String>,
    pub uuids: u32,
    /// Where temporary files are.
    pub folder: PathBuf,
}

impl<'w> World<'w> {
    pub fn new(network: impl FnMut(&Sent) -> Result<Received, String> + 'w) -> World<'w> {
        let now = super::time::seconds(2024, 3, 15, 7, 30, 0).expect("a date");
        World {
            network: Box::new(network),
            waiting: Waiting::Since8_3_13,
            lenient_reader: false,
            in_transaction: false,
            zone: 3 * 3600,
            clock: now as f64 * 1000.0,
            waits: Vec::new(),
            log: Vec::new(),
            messages: Vec::new(),
            uuids: 0,
            folder: std::env::temp_dir(),
        }
    }

    /// For what sends nothing.
    pub fn without_network() -> World<'w> {
        World::new(|sent| panic!("nothing is to be sent: {sent:?}"))
    }

    pub fn uuid(&mut self) -> Value {
        self.uuids += 1;
        Value::uuid(&format!("00000000-0000-4000-8000-{:012}", self.uuids))
    }
}
