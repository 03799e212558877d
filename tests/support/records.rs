//! Records as a journal's author makes them: from their text. A program can't write one down
//! otherwise.

use serde_json::Value;
use winddown::journal::PhaseRecord;

/// `record` with other values in some of its fields.
pub(crate) fn altered(record: &PhaseRecord, changes: Value) -> PhaseRecord {
    let mut fields = serde_json::to_value(record).unwrap();
    let Value::Object(changes) = changes else { panic!("expected fields") };
    for (name, value) in changes {
        assert!(fields.as_object_mut().unwrap().insert(name.clone(), value).is_some(), "a record has no {name}");
    }
    serde_json::from_value(fields).unwrap()
}
