"""Files and folders of photos: jobs, journal, samples."""
