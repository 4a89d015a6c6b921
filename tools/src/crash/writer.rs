//! One writer: the loop of begin, write, report, the same for every target.

use super::Plant;
use super::pipe::Message;
use super::workload::{Operation, Workload};
use beachdb::base::batch::WriteBatch;
use std::time::Duration;

/// How a write ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// Answered "not applied", and why.
    Refused(String),
    /// It may have been applied.
    Unknown(String),
}

/// A writer's task.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// What to write.
    pub workload: Workload,
    /// Who it is.
    pub writer: u32,
    /// The number of its next operation.
    pub next: u64,
    /// The planted bug.
    pub plant: Option<Plant>,
}

impl Writer {
    /// Writes until `send` says that nobody listens, or an outcome is unknown; returns that one's reason.
    pub fn run(
        self,
        mut send: impl FnMut(Message) -> bool,
        mut write: impl FnMut(&WriteBatch) -> Outcome,
    ) -> Result<(), String> {
        let writer = self.writer;
        for number in self.next.. {
            let operation = self.workload.operation(writer, number);
            let early = self.plant == Some(Plant::EarlyAck);
            let listening = send(Message::Begin { writer, number })
                && (!early || send(Message::Ack { writer, number }));
            if !listening {
                return Ok(());
            }
            let message = match self.write(&operation, &mut write) {
                Outcome::Done => Message::Ack { writer, number },
                Outcome::Refused(why) => {
                    // The database asked for patience.
                    std::thread::sleep(Duration::from_millis(2));
                    Message::Refused { writer, number, why }
                }
                Outcome::Unknown(why) => {
                    send(Message::Unknown { writer, number, why: why.clone() });
                    return Err(why);
                }
            };
            if !early && !send(message) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write(
        self,
        operation: &Operation,
        write: &mut impl FnMut(&WriteBatch) -> Outcome,
    ) -> Outcome {
        let whole = [operation.clone()];
        let each: Vec<Operation> = operation
            .changes
            .iter()
            .map(|change| Operation { changes: vec![change.clone()], ..*operation })
            .collect();
        let parts = if self.plant == Some(Plant::SplitBatch) { &each[..] } else { &whole };
        for part in parts {
            let outcome = match part.to_batch() {
                Ok(batch) => write(&batch),
                Err(e) => Outcome::Unknown(format!("the workload made a bad batch: {e}")),
            };
            if outcome != Outcome::Done {
                return outcome;
            }
        }
        Outcome::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { seed: 3, writers: 1, keys_per_writer: 10 };

    /// The messages of a writer whose first writes end as given, and how many batches it wrote.
    fn messages(plant: Option<Plant>, mut outcomes: Vec<Outcome>) -> (Vec<String>, usize) {
        let (mut sent, mut batches) = (Vec::new(), 0);
        outcomes.push(Outcome::Unknown("gone".into()));
        outcomes.reverse();
        let writer = Writer { workload: WORKLOAD, writer: 0, next: 5, plant };
        let end = writer.run(
            |message| {
                sent.push(message.to_line());
                true
            },
            |_| {
                batches += 1;
                outcomes.pop().expect("it stops at the unknown one")
            },
        );
        assert_eq!(end, Err("gone".into()));
        (sent, batches)
    }

    #[test]
    fn a_writer_reports_each_outcome_and_stops_at_an_unknown_one() {
        let (sent, batches) = messages(None, vec![Outcome::Done, Outcome::Refused("busy".into())]);
        let wanted = [
            "begin 0 5",
            "ack 0 5",
            "begin 0 6",
            "refused 0 6 busy",
            "begin 0 7",
            "unknown 0 7 gone",
        ];
        assert_eq!(sent, wanted);
        assert_eq!(batches, 3);
    }

    #[test]
    fn the_planted_bugs_do_what_they_say() {
        let (sent, _) = messages(Some(Plant::EarlyAck), vec![]);
        assert_eq!(sent, ["begin 0 5", "ack 0 5", "unknown 0 5 gone"]);
        let changes = WORKLOAD.operation(0, 5).changes.len();
        let (sent, batches) = messages(Some(Plant::SplitBatch), vec![Outcome::Done; changes]);
        assert_eq!(sent, ["begin 0 5", "ack 0 5", "begin 0 6", "unknown 0 6 gone"]);
        assert_eq!(batches, changes + 1);
    }
}
