//! The scheduler as another user: what it can't see is said, and never taken for gone.

use std::{
    env, fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tokio::time::timeout;
use winddown::{
    contracts::{OpenRun, Scheduler, WorkerId},
    process::{HeldBy, ProcessError, ProcessScheduler, WorkerEnv},
};

use crate::{is_alive, is_root, skipped, support::*};

const NOBODY: u32 = 65_534;
/// Set for `entry`: what is to be done there.
const WHAT: &str = "WINDDOWN_TEST_AS_ANOTHER";
const DONE: &str = "done as it should be";

fn worker() -> WorkerEnv {
    WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(1), "")
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env_remove(WHAT);
    command
}

/// Not a test: what is done as another user, or in another mount namespace.
#[test]
fn entry() {
    let Ok(what) = env::var(WHAT) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let builder = ProcessScheduler::builder("state").watchdog(watchdog());
        match what.as_str() {
            "unreadable" => unreadable(builder.held_by(HeldBy::Environment).open().await.unwrap()).await,
            "hidden" => {
                let error = builder.held_by(HeldBy::Environment).open().await.unwrap_err();
                assert!(matches!(error, ProcessError::Hidden { .. }), "{error}");
                let text = error.to_string();
                assert!(
                    text.contains("/proc is mounted with `hidepid=") && text.contains("mount /proc with `hidepid=0`"),
                    "{text}"
                );
                let error =
                    ProcessScheduler::builder("state").watchdog(watchdog()).open().await.map(|opened| opened.held_by());
                assert!(matches!(error, Err(ProcessError::Hidden { .. }) | Ok(HeldBy::ControlGroup)), "{error:?}");
            }
            "group" => works(builder.held_by(HeldBy::ControlGroup).open().await.unwrap()).await,
            "environment" => works(builder.held_by(HeldBy::Environment).open().await.unwrap()).await,
            _ => unreachable!(),
        }
    });
    println!("{DONE}");
}

async fn works(scheduler: ProcessScheduler) {
    let worker = scheduler.start(worker(), sh("setsid env -i sleep 600 & touch up-1; wait")).await.unwrap();
    until("it is up", || Path::new("up-1").exists()).await;
    assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), [WorkerId::new(1)]);
    stop(&scheduler, true).await;
    assert!(!is_alive(pid(&worker)));
    timeout(SOON, scheduler.close()).await.expect("it ends");
}

/// A child that has left the group, and runs a program that may be run and not read: so its environment is not shown to its own user.
async fn unreadable(scheduler: ProcessScheduler) {
    let script = "setsid sh -c 'setsid sh -c \"echo \\$\\$ > half; mv half child; exec ./unreadable 600\" & exit 0' & wait; touch up-1";
    let worker = scheduler.start(worker(), sh(script)).await.unwrap();
    until("the leader has ended", || Path::new("child").exists() && !is_alive(pid(&worker))).await;
    let child: i32 = fs::read_to_string("child").unwrap().trim().parse().unwrap();
    until("the child runs", || fs::read(format!("/proc/{child}/environ")).is_err()).await;
    let listed = scheduler.workers_for_job(&job(), None).await.unwrap();
    assert_eq!(listed, [WorkerId::new(1)], "its child is alive: {}", is_alive(child));
    match timeout(SOON, scheduler.stop_workers(&job(), Some(RUN), true)).await.expect("it ends") {
        Ok(()) => assert!(!is_alive(child), "`Ok` was said with the child alive"),
        Err(error) => {
            assert!(error.to_string().contains(&format!("process {child} (its environment can't be read")), "{error}");
            signal(child, rustix::process::Signal::KILL);
        }
    }
    stop(&scheduler, true).await;
    timeout(SOON, scheduler.close()).await.expect("it ends");
}

/// A folder of nobody's, and this program in it: the one that was built may be where nobody may look.
fn place(stage: &Stage) -> PathBuf {
    chown(stage.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let program = stage.path("program");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    program
}

fn check(done: &Output) {
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains(DONE), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
}

fn run(stage: &Stage, what: &str, command: &mut Command) {
    let done =
        command.args(["--exact", "others::entry", "--nocapture"]).env(WHAT, what).current_dir(stage.path("")).output();
    check(&done.unwrap());
}

#[test]
fn i2_b2_a_process_that_may_not_be_looked_at_is_not_taken_for_gone() {
    let _alone = crate::ALONE.blocking_lock();
    if !is_root() {
        return skipped("only root can become another user");
    }
    let stage = Stage::new();
    let program = place(&stage);
    fs::copy("/bin/sleep", stage.path("unreadable")).unwrap();
    fs::set_permissions(stage.path("unreadable"), fs::Permissions::from_mode(0o111)).unwrap();
    run(&stage, "unreadable", Command::new(program).uid(NOBODY).gid(NOBODY));
}

/// Runs a test in a mount namespace with such a /proc, as nobody or as root. False where there are no mount namespaces.
fn with_hidepid(stage: &Stage, what: &str, options: &str, user: u32, group: Option<&Path>) {
    let into = group.map_or_else(String::new, |group| format!("echo $$ > {}/cgroup.procs && ", group.display()));
    let script = format!(
        "mount -t proc -o {options} proc /proc && {into}exec setpriv --reuid {user} --regid {user} --clear-groups \"$0\" \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(place(stage));
    run(stage, what, &mut command);
}

fn has_mount_namespaces() -> bool {
    let tried = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "mount", "-t", "proc", "proc", "/proc"])
        .output();
    let works = is_root() && tried.is_ok_and(|tried| tried.status.success());
    if !works {
        skipped("it takes root and a mount namespace to hide processes");
    }
    works
}

#[test]
fn b9_what_hidepid_hides_is_said_at_open() {
    let _alone = crate::ALONE.blocking_lock();
    if has_mount_namespaces() {
        for options in ["hidepid=1", "hidepid=2", "hidepid=4"] {
            with_hidepid(&Stage::new(), "hidden", options, NOBODY, None);
        }
    }
}

#[test]
fn b9_who_may_see_all_the_same_is_not_refused() {
    let _alone = crate::ALONE.blocking_lock();
    if has_mount_namespaces() {
        with_hidepid(&Stage::new(), "environment", "hidepid=2,gid=65534", NOBODY, None);
    }
    if has_mount_namespaces() {
        let stage = Stage::new();
        // Root's own, since root runs it.
        let script = "mount -t proc -o hidepid=1 proc /proc && exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(env::current_exe().unwrap());
        run(&stage, "environment", &mut command);
    }
}

#[test]
fn i2_b9_in_control_groups_hidepid_is_no_hindrance() {
    let _alone = crate::ALONE.blocking_lock();
    if !has_mount_namespaces() {
        return;
    }
    let Some(group) = Delegated::new() else { return skipped("no control group can be delegated") };
    with_hidepid(&Stage::new(), "group", "hidepid=1", NOBODY, Some(&group.0));
}

/// A control group that was given to nobody, as a service manager does.
struct Delegated(PathBuf);

impl Delegated {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts
            .lines()
            .find_map(|line| line.split(' ').nth(1).filter(|_| line.split(' ').nth(2) == Some("cgroup2")))?;
        let group = Path::new(mount).join(format!("test-{}", std::process::id()));
        fs::create_dir(&group).ok()?;
        for file in ["", "cgroup.procs"] {
            chown(group.join(file), Some(NOBODY), Some(NOBODY)).ok()?;
        }
        Some(Self(group))
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
