//! A machine's history: its path through journals, who owns it, what is committed, what can be
//! restored.
//!
//! Pure machines: they name what they need to know, are told, and decide. The rules R1 to R14 and R18 of the
//! design stand where they are decided:
//!
//! | file            | decides                                                        | rules      |
//! |-----------------|----------------------------------------------------------------|------------|
//! | `path.rs`       | which objects, in which order, are a machine's history         | R2–R4, R14 |
//! | `sealing.rs`    | where a journal's seal goes                                    | R2, R5     |
//! | `commit.rs`     | when to freeze an object, and how far `committed` reaches      | R9, R10    |
//! | `history.rs`    | what a machine's objects say: positions, points, damage        | –          |
//! | `extent_map.rs` | which bytes a disk has at a `Seq`                              | –          |
//! | `versions.rs`   | what a map layer holds of a disk's objects                     | R13        |
//! | `sweep.rs`      | which bytes a disk has at a `Seq`, from layers                 | –          |
//! | `garbage.rs`    | what may be deleted, and why the rest may not                  | R13, R18   |
//! | `ladder.rs`     | which points a policy keeps, and when time counts              | –          |
//! | `digest_map.rs` | which digests a disk's pieces have, for a compare              | –          |

pub mod commit;
pub mod digest_map;
pub mod extent_map;
pub mod garbage;
pub mod history;
pub mod ladder;
pub mod path;
pub mod sealing;
pub mod sweep;
pub mod versions;

#[cfg(test)]
mod sample;
