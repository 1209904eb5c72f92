//! The request that a worker serves, as far as it must be known when the program itself fails.

use super::record::Ended;
use super::wire::Wire;
use crate::edge::answering::{after_panic, plain};
use crate::system::log::Log;
use crate::values::portal::Version;
use std::sync::{Arc, Mutex};

#[derive(Clone)]
pub struct Current(Arc<Mutex<Option<Served>>>);

struct Served {
    wire: Arc<Wire>,
    id: u16,
    shape: Option<Version>,
    log: Arc<Log>,
    /// The answer is being written: nothing else can be.
    is_answering: bool,
}

impl Current {
    /// From now on a panic is answered as every failure, and ends this process.
    pub fn install() -> Current {
        let current = Current(Arc::default());
        let served = current.clone();
        std::panic::set_hook(Box::new(move |panic| {
            if let Some(served) = served.0.try_lock().ok().and_then(|mut served| served.take()) {
                let Served { wire, id, shape, log, is_answering } = served;
                let answer = after_panic(panic, shape, &log);
                if !is_answering {
                    let _ = wire.end(id, &plain(answer, &log.request_id), Ended::Complete, 1);
                }
                wire.close_gently();
            }
            std::process::exit(1);
        }));
        current
    }

    pub fn begin(&self, wire: &Arc<Wire>, id: u16, shape: Option<Version>, log: &Arc<Log>) {
        self.set(Some(Served { wire: wire.clone(), id, shape, log: log.clone(), is_answering: false }));
    }

    pub fn answering(&self) {
        if let Ok(mut served) = self.0.lock() {
            served.iter_mut().for_each(|served| served.is_answering = true);
        }
    }

    pub fn end(&self) {
        self.set(None);
    }

    fn set(&self, to: Option<Served>) {
        if let Ok(mut served) = self.0.lock() {
            *served = to;
        }
    }
}
