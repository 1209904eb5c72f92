//! What users rely on, sentence by sentence, on the real executable: as a CGI process against the simulator.
//! The names of the tests are the sentences.

mod calls;
#[allow(dead_code)]
mod fixture;
mod lists;
mod relay;
