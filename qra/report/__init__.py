"""Reports: tables, figures, verdicts and one page, made from the files that runs leave behind."""
