//! The worker's end of the lifeline: how it learns that its scheduler is gone.

use std::{
    fs::File,
    io::{self, Read},
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};
use tokio::net::unix::pipe;

use crate::worker_env::WorkerEnv;

impl WorkerEnv {
    /// Waits until the scheduler that started this process is gone: it was closed, dropped or killed. Then the worker should leave
    /// by itself; soon after, the watchdog kills it. It never ends in a process that has no lifeline.
    ///
    /// # Errors
    /// What the operating system said, if the lifeline is there but can't be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads, and opens the lifeline anew each time.
    pub async fn lifeline(&self) -> io::Result<()> {
        let Some(path) = &self.lifeline else { return std::future::pending().await };
        let mut file =
            match open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
                // The next scheduler has removed it: the one that started us is long gone.
                Err(Errno::NOENT) => return Ok(()),
                file => File::from(file?),
            };
        // A pipe whose writer left before it was opened never becomes readable: its end is seen only by reading.
        match file.read(&mut [0]) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        let lifeline = pipe::Receiver::from_file(file)?;
        loop {
            lifeline.readable().await?;
            match lifeline.try_read(&mut [0; 16]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
