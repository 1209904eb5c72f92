//! A Bitrix24 to test against: its OAuth server and any number of portals, on 127.0.0.1, over http or
//! https, with faults on demand and a record of everything received.
//!
//! ```no_run
//! use simulator::{Action, Fault, Options, Simulator, Target};
//!
//! let sim = Simulator::start(Options::default());
//! let portal = sim.portal();
//! let pair = portal.issue_pair(1);
//! portal.expire_access_tokens();
//! sim.inject(Fault::once(Target::Token, Action::Html500));
//! // … let the program under test call `portal.client_endpoint()` …
//! assert_eq!(sim.ledger().refreshes(), 1);
//! assert_eq!(sim.ledger().executed("crm.deal.add"), 1);
//! # let _ = pair;
//! ```

#![forbid(unsafe_code)]

mod addresses;
mod batch;
mod bucket;
mod client;
mod clock;
mod control;
mod entities;
mod faults;
mod file_methods;
mod files;
mod http;
mod kinds;
mod leak;
mod ledger;
mod methods;
mod multipart;
mod oauth;
mod pages;
mod params;
mod php;
mod portal;
mod random;
mod rest;
mod rest3;
mod server;
mod simulator;
mod state;
mod tls;
mod transfer;
mod xml;

pub use batch::BatchReading;
pub use client::HttpAnswer;
pub use control::HELP as CONTROL_HELP;
pub use faults::{Action, Fault, Target};
pub use files::{Content, File};
pub use kinds::ListFault;
pub use leak::{spellings, LeakAs};
pub use ledger::{Auth, AuthParameter, Call, Command, Direction, Entry, Kind, Ledger, TokenPlace, Transfer};
pub use multipart::Part;
pub use oauth::{KeyPair, TokenPair};
pub use params::form_as_json;
pub use portal::{FrameForm, Portal};
pub use simulator::{Options, PortalOptions, Simulator};
pub use tls::BUILT_IN_ROOT;
