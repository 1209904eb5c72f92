//! `deploy/release/release.sh`, in a repository of its own, where the tests and the build are told what to do.

use super::repository;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Those that say the version, and the command.
const FILES: [&str; 7] = [
    "Cargo.toml",
    "Cargo.lock",
    "CHANGELOG.md",
    "deploy/man/b24proxy.1",
    "deploy/1c/b24proxy.bsl",
    "deploy/1c/extension/Configuration.xml",
    "deploy/release/release.sh",
];

/// Notes what it is asked for, and fails where it finds a file that says so.
const TESTS: &str = "#!/bin/sh\necho \"run.sh $*\" >>.git/done\n[ ! -e .git/tests-fail ]\n";

/// As `build.sh`, but for the executables; one has another sum than its file says where a file asks for it.
const BUILD: &str = r#"#!/bin/sh
set -e
echo "build.sh $*" >>.git/done
mkdir -p "$1"
cd "$1"
for file in b24proxy b24proxy-aarch64 b24proxy_VERSION_amd64.deb b24proxy_VERSION_arm64.deb; do
    echo "$file" >"$file"
    sha256sum "$file" >"$file.sha256"
done
echo '{}' >b24proxy_VERSION.cdx.json
echo MIT >b24proxy_VERSION.licences.txt
[ ! -e "$OLDPWD/.git/sum-is-wrong" ] || echo other >b24proxy_VERSION_arm64.deb
"#;

struct Project {
    root: PathBuf,
}

impl Project {
    /// On the branch main, with all that this version needs.
    fn ready(name: &str) -> Project {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checklist").join(name);
        let _ = fs::remove_dir_all(&root);
        let project = Project { root };
        for file in FILES {
            project.write(file, &fs::read_to_string(repository().join(file)).unwrap());
        }
        project.write("tests/run.sh", TESTS);
        project.write("deploy/release/build.sh", &BUILD.replace("VERSION", VERSION));
        project.write(".gitignore", "/target\n");
        project.write(
            "CHANGELOG.md",
            "# Changelog\n\n## [Unreleased]\n\n### Added\n\n* Files.\n\n## [0.0.1] - 2026-01-01\n",
        );
        project.git(&["init", "--quiet", "--initial-branch", "main"]);
        project.commit();
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }

    /// In the project, without what this machine's git and cargo are told.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env_remove("CARGO_TARGET_DIR").env("GIT_CONFIG_GLOBAL", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "A").env(format!("GIT_{role}_EMAIL"), "a@example.com");
        }
        command
    }

    fn git(&self, arguments: &[&str]) -> String {
        super::output(self.command("git").args(arguments))
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "A change"]);
    }

    /// Whether it succeeded, and all that it said.
    fn release(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command("sh").arg("deploy/release/release.sh").args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn is_as_before(&self) -> bool {
        self.git(&["tag"]).is_empty()
            && self.git(&["status", "--porcelain"]).is_empty()
            && self.git(&["rev-list", "--count", "HEAD"]).trim() == "1"
    }
}

#[test]
fn one_command_tests_dates_the_changelog_builds_verifies_and_tags() {
    let project = Project::ready("whole");
    let (released, said) = project.release(&[VERSION]);
    assert!(released, "{said}");
    assert_eq!(project.read(".git/done"), "run.sh \nrun.sh long\nbuild.sh target/dist\n");
    let changelog = project.read("CHANGELOG.md");
    let start = format!("# Changelog\n\n## [Unreleased]\n\n## [{VERSION}] - 20");
    assert!(changelog.starts_with(&start), "{changelog}");
    assert!(changelog.contains("\n\n### Added\n\n* Files.\n\n## [0.0.1] - 2026-01-01\n"), "{changelog}");
    assert_eq!(project.git(&["log", "-1", "--format=%s"]).trim(), format!("Release {VERSION}"));
    assert_eq!(project.git(&["status", "--porcelain"]), "");
    assert_eq!(project.git(&["rev-parse", &format!("v{VERSION}^{{commit}}")]), project.git(&["rev-parse", "HEAD"]));
    assert!(said.contains(&format!("git push origin main v{VERSION}")), "{said}");
}

#[test]
fn a_dry_run_says_each_step_and_does_none() {
    let project = Project::ready("dry");
    let (released, said) = project.release(&[VERSION, "--dry-run"]);
    assert!(released, "{said}");
    for step in ["sh tests/run.sh\n", "sh tests/run.sh long\n", "date_changelog\n", "build.sh target/dist\n", "git tag"]
    {
        assert!(said.contains(step), "{step}: {said}");
    }
    assert_eq!(project.read(".git/done"), "");
    assert!(project.is_as_before());
}

#[test]
fn all_that_is_not_ready_is_said_at_once_and_nothing_is_done() {
    let refused = |project: &Project, version: &str, expected: &[&str]| {
        let (released, said) = project.release(&[version]);
        let lines: Vec<&str> = said.lines().collect();
        assert!(!released && lines.len() == expected.len(), "{said}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.contains(expected), "{said}");
        }
        assert_eq!(project.read(".git/done"), "");
    };
    let project = Project::ready("not-ready");
    let files = ["Cargo.toml", "Cargo.lock", "b24proxy.1", "b24proxy.bsl", "Configuration.xml"];
    refused(&project, "99.0.0", &files);
    assert!(project.is_as_before());

    project.write("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n\n## [0.0.1] - 2026-01-01\n\n* Nothing.\n");
    refused(&project, VERSION, &["not committed", "CHANGELOG.md"]);
    project.git(&["checkout", "--quiet", "CHANGELOG.md"]);
    project.git(&["checkout", "--quiet", "-b", "other"]);
    project.git(&["tag", &format!("v{VERSION}")]);
    refused(&project, VERSION, &["main", "tag"]);
    refused(&project, "v1", &["usage"]);
}

#[test]
fn after_a_failure_the_same_command_goes_on_where_it_was() {
    let project = Project::ready("failures");
    project.write(".git/tests-fail", "");
    assert!(!project.release(&[VERSION]).0);
    assert!(project.is_as_before());
    fs::remove_file(project.root.join(".git/tests-fail")).unwrap();

    project.write(".git/sum-is-wrong", "");
    let (released, said) = project.release(&[VERSION]);
    assert!(!released && said.contains("arm64.deb: FAILED"), "{said}");
    assert_eq!(project.git(&["tag"]), "");
    fs::remove_file(project.root.join(".git/sum-is-wrong")).unwrap();

    assert!(project.release(&[VERSION]).0);
    assert_eq!(project.git(&["rev-list", "--count", "HEAD"]).trim(), "2", "dated once");
    assert_eq!(project.git(&["tag"]).trim(), format!("v{VERSION}"));
}
