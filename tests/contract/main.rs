//! What users rely on, sentence by sentence, on the real executable: as a CGI process against the simulator.
//! The names of the tests are the sentences.

mod attacks;
#[allow(dead_code)]
mod fixture;
mod installing;
mod relay;
mod status_page;
mod uninstalling;
#[allow(dead_code)]
mod visitor;
