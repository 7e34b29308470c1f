"""What people read: tables, figures and the verdict, from rows and summaries. Importing the room loads no pandas."""
