"""What has changed in the tables from release to release; run by `simic.database.migrating`."""
