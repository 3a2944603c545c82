"""What runs show: tables, figures, verdicts and one page, of the files that runs leave behind."""
