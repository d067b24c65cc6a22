//! What the shim reports, and what becomes of the container.

use cri::v1::ContainerConfig;
use protobuf::EnumOrUnknown;

use super::*;
use crate::records::ContainerIntent;

fn container() -> Container {
    Container::new(ContainerRecord {
        id: "c1".into(),
        sandbox_id: "s1".into(),
        intent: ContainerIntent::Keep,
        created_at_ns: 1,
        config: ContainerConfig::default(),
        image_id: String::new(),
        image_volumes: Default::default(),
        stop_signal: 15,
        log: None,
        resources: None,
        life: Life::Created,
        user: None,
        stdin_closed: false,
    })
}

fn report(state: ProcessState) -> Process {
    Process {
        container_id: "c1".into(),
        state: EnumOrUnknown::new(state),
        pid: 42,
        start_time_ticks: 7,
        started_at_ns: 10,
        finished_at_ns: 20,
        uid: 5,
        ..Default::default()
    }
}

#[test]
fn a_life_goes_forward_only() {
    let mut c = container();
    let running = report(ProcessState::PROCESS_STATE_RUNNING);
    let exited = Process {
        exit_code: 3,
        ..report(ProcessState::PROCESS_STATE_EXITED)
    };

    assert_eq!(c.observe(&report(ProcessState::PROCESS_STATE_CREATED)), None);
    assert_eq!(c.observe(&running), Some(Change::Started));
    assert_eq!(c.observe(&running), None, "told twice");
    assert_eq!(
        c.process,
        Some(ProcessName {
            pid: 42,
            start_time_ticks: 7
        })
    );
    assert_eq!(c.record.user, Some((5, 0, vec![])));
    assert_eq!(c.observe(&exited), Some(Change::Exited));
    assert_eq!(c.observe(&running), None, "told late");
    let Life::Exited(exit) = &c.record.life else {
        panic!("{:?}", c.record.life)
    };
    assert_eq!(
        (
            exit.exit_code,
            exit.reason.as_str(),
            exit.started_at_ns,
            exit.finished_at_ns
        ),
        (3, "Error", 10, 20)
    );
    assert_eq!(c.process, None);
}

#[test]
fn an_intended_start_becomes_a_start_when_the_shim_says_so() {
    let mut c = container();
    c.record.life = Life::Running { started_at_ns: 0 };
    assert_eq!(
        c.observe(&report(ProcessState::PROCESS_STATE_RUNNING)),
        Some(Change::Started)
    );
}

#[test]
fn reasons() {
    for (exit_code, oom_killed, expected) in [(0, false, "Completed"), (1, false, "Error"), (137, true, "OOMKilled")] {
        let mut c = container();
        c.observe(&Process {
            exit_code,
            oom_killed,
            ..report(ProcessState::PROCESS_STATE_EXITED)
        });
        let Life::Exited(exit) = &c.record.life else { panic!() };
        assert_eq!(exit.reason, expected);
    }
}
