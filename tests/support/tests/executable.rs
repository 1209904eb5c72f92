//! Which executable is tested. One test only: it changes the environment.

use std::fs;

use support::cgi::Cgi;
use support::{executable, Sandbox};

#[test]
fn a_named_executable_is_copied_to_where_everybody_can_run_it() {
    let private = tempfile::tempdir().unwrap();
    let built = private.path().join("b24proxy");
    std::env::set_var("B24PROXY_TEST_BINARY", &built);

    fs::write(&built, "#!/bin/sh\nprintf 'Content-Type: a/b\\n\\none'\n").unwrap();
    let first = executable();
    assert_eq!(executable(), first);
    assert_eq!(Cgi::new(&Sandbox::new()).run().text(), "one");

    fs::write(&built, "#!/bin/sh\nprintf 'Content-Type: a/b\\n\\nanother'\n").unwrap();
    let second = executable();
    assert_ne!(second, first);
    assert_eq!(Cgi::new(&Sandbox::new()).run().text(), "another");

    fs::remove_file(first).unwrap();
    fs::remove_file(second).unwrap();
}
