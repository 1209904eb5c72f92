//! What users rely on, sentence by sentence, on the real executable: as a CGI process against the simulator.
//! The names of the tests are the sentences.

#[allow(dead_code)]
mod fixture;
mod idempotency;
mod limits;
mod relay;
