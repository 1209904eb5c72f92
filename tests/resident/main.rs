//! The executable resident, by FastCGI: what is promised beside all that holds for a CGI process as well. (That is tested by
//! `contract`, started both ways.)

mod connections;
#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;
mod listening;
mod protocol;
mod reloads;
mod served;
mod staying;
mod waiting;
mod workers;
